"""When a session is idle, and what keeps it: nothing that waits, everything that works."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skyrl_magic.core import protocol
from tests.unit.agent.harness import Attached, Session, until
from tests.unit.agent.test_supervisor import program, status_of

MakeSession = Callable[..., Session]
#: Long against what a busy machine does to a process, short for a test.
IDLE_S = 4.0


def stays(session: Session, channel: Attached, with_what: str) -> None:
    """The session outlives its idle time, and says what keeps it."""
    until(lambda: status_of(channel).busy_with.startswith(with_what))
    began = time.monotonic()
    while time.monotonic() < began + 1.5 * IDLE_S:
        assert session.process.poll() is None
        time.sleep(0.1)
    assert status_of(channel).idle_s < IDLE_S


def start_worker(session: Session, channel: Attached, name: str, work: str) -> int:
    """A process of no run, named as Ray names its workers; its id."""
    (session.folder / "work.py").write_text(work)
    (session.folder / "start.sh").write_text(
        f"echo $$ >{session.folder}/pid; exec -a '{name}' {sys.executable} {session.folder}/work.py\n"
    )
    channel.run(f"setsid -f bash {session.folder}/start.sh >/dev/null 2>&1", "start")
    until(lambda: (session.folder / "pid").is_file() and (session.folder / "pid").read_text() != "")
    return int((session.folder / "pid").read_text())


SPIN = "while True: pass"
SPIN_BELOW = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {SPIN!r}])"
WAIT = "import time; time.sleep(600)"


def test_a_ray_task_that_computes_keeps_the_session(make_session: MakeSession) -> None:
    session = make_session(idle_timeout_s=IDLE_S)
    channel = session.attach()
    pid = start_worker(session, channel, "ray::train_step", SPIN)
    stays(session, channel, "Ray runs train_step")
    os.kill(pid, signal.SIGKILL)
    assert session.wait() == 0
    assert "nothing ran for 4s (--idle-timeout)" in session.log.read_text()


def test_what_a_ray_task_started_keeps_it_too(make_session: MakeSession) -> None:
    session = make_session(idle_timeout_s=IDLE_S)
    channel = session.attach()
    start_worker(session, channel, "ray::JobSupervisor", SPIN_BELOW)
    stays(session, channel, "Ray runs JobSupervisor")


@pytest.mark.parametrize(("name", "work"), [("ray::Actor", WAIT), ("ray::IDLE", SPIN), ("python", SPIN)])
def test_what_waits_or_is_no_task_does_not(make_session: MakeSession, name: str, work: str) -> None:
    session = make_session(idle_timeout_s=IDLE_S)
    channel = session.attach()
    start_worker(session, channel, name, work)
    assert status_of(channel).busy_with == ""
    assert session.wait() == 0


def test_a_gpu_that_works_keeps_the_session(make_session: MakeSession, tmp_path: Path) -> None:
    percent = tmp_path / "percent"
    percent.write_text("0\n87\n")
    env = program(tmp_path / "bin", "nvidia-smi", f'echo "$@" >>{tmp_path}/asked; cat {percent}')
    session = make_session(idle_timeout_s=IDLE_S, env=env)
    channel = session.attach()
    stays(session, channel, "GPU at 87 %")
    percent.write_text("0\n4\n")
    assert session.wait() == 0
    asked = (tmp_path / "asked").read_text().splitlines()
    assert set(asked) == {"--query-gpu=utilization.gpu --format=csv,noheader,nounits"}


def test_a_gpu_is_not_asked_for_while_something_runs(make_session: MakeSession, tmp_path: Path) -> None:
    env = program(tmp_path / "bin", "nvidia-smi", f"echo >>{tmp_path}/asked; echo 0")
    channel = make_session(idle_timeout_s=1.0, env=env).attach()
    channel.run("sleep 2")
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("script", ["exec sleep 600", "echo No devices were found; exit 6", "kill -9 $$"])
def test_an_nvidia_smi_that_hangs_or_fails_blocks_nothing(
    make_session: MakeSession, tmp_path: Path, script: str
) -> None:
    env = program(tmp_path / "bin", "nvidia-smi", f"touch {tmp_path}/asked; {script}")
    session = make_session(idle_timeout_s=2.0, env=env)
    channel = session.attach()
    until((tmp_path / "asked").exists)
    began = time.monotonic()
    assert status_of(channel).busy_with == ""
    assert time.monotonic() - began < 5
    assert session.wait() == 0


def test_idle_time_waits_for_the_start_of_ray(make_session: MakeSession, tmp_path: Path) -> None:
    env = program(tmp_path / "bin", "ray", "sleep 3; exit 1")
    session = make_session(idle_timeout_s=1.0, ray=True, env=env)
    channel = session.attach()
    channel.wait_for(protocol.Status, lambda status: status.ray == "failed")
    assert session.wait() == 0


# --- the end ----------------------------------------------------------------------------------------------------------


def test_the_timeout_is_said_and_ends_the_session_with_its_volume_committed(
    make_session: MakeSession, tmp_path: Path
) -> None:
    env = program(tmp_path / "bin", "sync", f'cp -r "$1"/. {tmp_path}/committed')
    (tmp_path / "committed").mkdir()
    session = make_session(timeout_s=10.0, env=env)
    channel = session.attach()
    at_term = f"echo late >{session.volume}/late; exit 9"
    channel.start(f"trap '{at_term}' TERM; echo up; while :; do sleep 0.05; done")
    channel.send(protocol.WatchRun("run-1"))
    notice = channel.wait_for(protocol.Notice)
    assert (notice.about, notice.text) == (
        "timeout 10",
        "session test ends in 1s (--timeout 10s): its runs end then; the volume is committed",
    )
    late_comer = session.attach()
    assert late_comer.wait_for(protocol.Notice).about == "timeout 10"
    assert channel.ended().reason == "its time was over (--timeout 10s)"
    assert channel.ended().exit_code == 9
    assert session.wait() == 0
    assert (tmp_path / "committed" / "late").exists()


def test_the_budget_is_said_and_ends_the_session(make_session: MakeSession) -> None:
    session = make_session(usd_per_hour=3600.0, max_usd=6.0)
    channel = session.attach()
    channel.start("sleep 600")
    channel.send(protocol.WatchRun("run-1"))
    assert "has spent $4.8" in channel.wait_for(protocol.Notice).text
    assert channel.ended().reason == "its budget of $6 was spent (--max-usd)"
    assert session.wait() == 0


def test_budget_and_price_can_be_changed(make_session: MakeSession) -> None:
    session = make_session()
    channel = session.attach()
    channel.ask(protocol.Configure(usd_per_hour=7200.0, max_usd=1e6), protocol.Done)
    status = status_of(channel)
    assert (status.usd_per_hour, status.max_usd, status.spent_usd > 0) == (7200.0, 1e6, True)
    until(lambda: status_of(channel).spent_usd > 1)
    refused = channel.ask(protocol.Configure(max_usd=0.5), protocol.Done, protocol.Failed)
    assert isinstance(refused, protocol.Failed)
    assert "already: give a larger --max-usd" in refused.message
    channel.ask(protocol.Configure(max_usd=status_of(channel).spent_usd + 1), protocol.Done)
    assert session.wait() == 0
    assert "(--max-usd)" in session.log.read_text()


def test_who_stopped_it_is_said(make_session: MakeSession) -> None:
    session = make_session()
    channel = session.attach()
    channel.start("sleep 600")
    channel.send(protocol.WatchRun("run-1"))
    session.attach().ask(protocol.StopSession(by="ann@laptop"), protocol.Done)
    assert channel.ended().reason == "%skyrl_stop by ann@laptop ended it"
    assert session.wait() == 0


# --- the Python kernel ------------------------------------------------------------------------------------------------

CALLBACK = """
import time
from comm import get_comm_manager
def opened(comm, message):
    {work}
get_comm_manager().register_target("slow", opened)
"""


def test_a_widgets_callback_keeps_the_session(make_session: MakeSession) -> None:
    session = make_session(idle_timeout_s=IDLE_S)
    channel = session.attach()
    channel.run(CALLBACK.format(work=f"time.sleep({2 * IDLE_S})"), kind=protocol.PYTHON)
    content = {"comm_id": "c", "target_name": "slow", "data": {}}
    channel.send(protocol.KernelMessage("answers", msg_type="comm_open", content=content))
    began = time.monotonic()
    while time.monotonic() < began + 1.5 * IDLE_S:
        assert session.process.poll() is None
        assert status_of(channel).idle_s < IDLE_S
        time.sleep(0.1)
    assert session.wait() == 0


def test_a_kernels_thread_that_computes_keeps_the_session_and_one_that_waits_does_not(
    make_session: MakeSession,
) -> None:
    session = make_session(idle_timeout_s=IDLE_S)
    channel = session.attach()
    code = "import threading, time\ngo = True\ndef spin():\n    while go: pass\n    time.sleep(600)\n"
    channel.run(f"{code}threading.Thread(target=spin, daemon=True).start()", kind=protocol.PYTHON)
    stays(session, channel, "the Python kernel computes")
    channel.run("go = False", "run-2", kind=protocol.PYTHON)
    assert session.wait() == 0
