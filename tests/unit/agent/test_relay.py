"""A relay with a real kernel, as the supervisor starts one: Stop at any moment ends the cell and nothing else."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.relay import RelayProcess
from skyrl_magic.agent import kernel_start, paths
from skyrl_magic.core import protocol

DEADLINE_S = 60.0
_NUMBERS = itertools.count()
#: Says what the kernel has imported of its completer, when the thread that does it is over.
COMPLETER = """
import sys, threading
for thread in threading.enumerate():
    if thread.name == 'completer': thread.join()
print('jedi.inference' in sys.modules, [_], Out, len(In))
"""


@contextmanager
def started(agent: Path, folder: Path) -> Iterator[RelayProcess]:
    """A relay whose kernel starts."""
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE_S)
    arguments = kernel_start.to_arguments(theirs.fileno(), folder, [])
    command = [sys.executable, str(agent), "relay", *arguments]
    pid = kernel_start.fork_relay(command, folder, theirs, folder / "relay.log")
    theirs.close()
    try:
        yield RelayProcess(pid, ours)
    finally:
        ours.close()
        os.waitpid(pid, 0)


@pytest.fixture
def starting(agent: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """A relay whose kernel comes up."""
    with started(agent, tmp_path_factory.mktemp("py")) as found:
        yield found


@pytest.fixture(scope="module")
def relay(agent: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """A relay whose kernel is up, and has no thread at work: a sleep that begins as a signal comes may not hear it."""
    folder = tmp_path_factory.mktemp("py")
    with started(agent, folder) as found:
        found.wait_for(protocol.RelayReady)
        found.send(execute(folder, COMPLETER))
        found.wait_for(protocol.ExecuteEnded)
        yield found


def execute(folder: Path, code: str) -> protocol.ExecuteRun:
    """A request to execute ``code``, with its folder made."""
    run_id = f"run{next(_NUMBERS)}"
    run = folder / "runs" / run_id
    run.mkdir(parents=True)
    (run / paths.CELL_FILE).write_text(code)
    return protocol.ExecuteRun(run_id, str(run))


def test_stop_right_behind_the_start_ends_the_cell_and_keeps_the_kernel(relay: RelayProcess, tmp_path: Path) -> None:
    relay.send(execute(tmp_path, "kept = 1"))
    assert relay.wait_for(protocol.ExecuteEnded).exit_code == 0
    for _ in range(30):
        request = execute(tmp_path, "import time; time.sleep(600)")
        relay.send(request)
        relay.send(protocol.SignalRun(0, request.run_id, signal.SIGINT))
        ended = relay.wait_for(protocol.ExecuteEnded)
        assert ended.run_id == request.run_id
        assert ended.exit_code != 0
    request = execute(tmp_path, "print(kept)")
    relay.send(request)
    assert relay.wait_for(protocol.ExecuteEnded).exit_code == 0
    assert Path(request.folder, protocol.STDOUT).read_bytes() == b"1\n"


def test_the_first_tab_finds_its_completer_imported(starting: RelayProcess, tmp_path: Path) -> None:
    """Not before the first cell, which does not wait for that, and without a trace in what is the user's."""
    first, second = execute(tmp_path, "import sys; print('jedi' in sys.modules)"), execute(tmp_path, COMPLETER)
    starting.send(first)
    starting.wait_for(protocol.RelayReady)
    starting.wait_for(protocol.ExecuteEnded)
    starting.send(second)
    starting.wait_for(protocol.ExecuteEnded)
    assert Path(first.folder, protocol.STDOUT).read_text() == "False\n"
    assert Path(second.folder, protocol.STDOUT).read_text() == "True [''] {} 3\n"
