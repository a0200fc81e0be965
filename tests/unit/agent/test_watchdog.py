"""A supervisor that does not move any more ends with its container; one that is busy, or was frozen, does not."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from skyrl_magic.agent.watchdog import EXIT_HUNG, HANG_VARIABLE
from skyrl_magic.core import protocol
from tests.unit.agent.harness import Session, alive, until

MakeSession = Callable[..., Session]
#: A supervisor that has not moved for so long hangs here, in seconds: a busy machine lets it move meanwhile.
HANG_S = 6.0


@pytest.fixture
def watched(make_session: MakeSession) -> Session:
    """A session whose supervisor may not hang for long."""
    return make_session(env={HANG_VARIABLE: str(HANG_S)})


def test_a_supervisor_that_hangs_ends_with_all_that_it_started(watched: Session, tmp_path: Path) -> None:
    channel = watched.attach()
    channel.start(f"setsid sleep 600 & echo $! $$ >{tmp_path}/pids.new; mv {tmp_path}/pids.new {tmp_path}/pids; wait")
    until((tmp_path / "pids").exists)
    pids = [watched.pid, *map(int, (tmp_path / "pids").read_text().split())]
    os.kill(watched.pid, signal.SIGSTOP)
    assert watched.wait() == EXIT_HUNG
    says = (
        f"skyrl_magic: {protocol.SESSION_ENDS}its supervisor hung (it had not moved for 6s), so its watchdog ended it\n"
    )
    assert watched.log.read_text().endswith(says)
    until(lambda: not any(map(alive, pids)))
    assert channel.process.wait(60) == 69


def test_a_hang_ends_where_nobody_takes_what_it_says(make_session: MakeSession, tmp_path: Path) -> None:
    log = tmp_path / "s0" / "supervisor.log"
    log.parent.mkdir()
    os.mkfifo(log)
    pipe = os.open(log, os.O_RDWR | os.O_NONBLOCK)
    session = make_session(env={HANG_VARIABLE: str(HANG_S)})
    session.attach()
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, bytes(4096))
    session.process.send_signal(signal.SIGTERM)  # the supervisor says so, and hangs at that
    assert session.wait() == EXIT_HUNG
    os.close(pipe)


def test_a_supervisor_that_is_busy_goes_on(watched: Session) -> None:
    channel = watched.attach()
    burn = "for i in 1 2 3 4; do timeout 9 sh -c 'while :; do :; done' & done; wait; echo done"
    assert channel.run(burn).exit_code == 0
    assert channel.text() == b"done\n"
    assert watched.process.poll() is None


def test_a_machine_that_was_frozen_is_no_hang(watched: Session) -> None:
    channel = watched.attach()
    both = [psutil.Process(watched.process.pid), psutil.Process(watched.pid)]
    for process in both[::-1]:
        process.suspend()
    subprocess.run(["sleep", str(HANG_S + 1)], check=True)  # that is the case: time goes by
    for process in both:
        process.resume()
    assert channel.run(f"sleep {HANG_S + 1}; echo on").exit_code == 0
    assert channel.text() == b"on\n"


def test_a_supervisor_that_is_killed_gives_its_exit_code(session: Session) -> None:
    session.attach()
    os.kill(session.pid, signal.SIGKILL)
    assert session.wait() == 128 + signal.SIGKILL


def test_a_signal_to_the_first_process_is_the_supervisors(session: Session) -> None:
    session.attach()
    session.process.send_signal(signal.SIGTERM)
    assert session.wait() == 0
    assert f"{protocol.SESSION_ENDS}the backend ended its container" in session.log.read_text()


def test_the_supervisor_ends_with_what_watches_it(session: Session) -> None:
    session.attach()
    supervisor = session.pid
    session.process.kill()
    session.wait()
    until(lambda: not alive(supervisor))
