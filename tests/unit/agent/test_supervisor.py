"""The supervisor's own life: boot, Ray, commits, idle time, the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skyrl_magic.core import protocol
from tests.unit.agent.harness import Attached, Gate, Session, alive, until

MakeSession = Callable[..., Session]


def status_of(channel: Attached) -> protocol.Status:
    answer = channel.ask(protocol.GetStatus(), protocol.Status)
    assert isinstance(answer, protocol.Status)
    return answer


def program(folder: Path, name: str, script: str) -> dict[str, str]:
    """An environment in whose PATH ``name`` is ``script``, before the machine's own."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


# --- boot ---


def test_boot_links_the_volume_and_keeps_what_is_there(session: Session, channel: Attached) -> None:
    link = session.folder / "home" / "data"
    assert link.resolve() == session.volume.resolve()
    channel.run(f"echo kept >{link}/file")
    assert (session.volume / "file").read_text() == "kept\n"


def test_boot_leaves_an_existing_link_folder_alone(make_session: MakeSession, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "mine").touch()
    make_session(volume_link=str(there)).attach()
    assert not there.is_symlink()
    assert (there / "mine").exists()


def test_the_old_layout_runs_in_its_project_with_gym_beside_it(make_session: MakeSession, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "skyrl-train").mkdir(parents=True)
    (checkout / "skyrl-train" / "pyproject.toml").touch()
    (checkout / "skyrl-gym").mkdir()
    (checkout / "skyrl-gym" / "pyproject.toml").touch()
    channel = make_session(checkout_dir=str(checkout)).attach()
    assert channel.wait_for(protocol.Welcome).workdir == str(checkout / "skyrl-train")
    channel.run("pwd; ls skyrl-gym")
    assert channel.text().decode().split() == [str(checkout / "skyrl-train"), "pyproject.toml"]
    assert (checkout / "skyrl-train" / "skyrl-gym").readlink() == Path("../skyrl-gym")


def test_todays_layout_runs_at_its_root(make_session: MakeSession, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "skyrl-train").mkdir(parents=True)
    (checkout / "skyrl-train" / "README.md").touch()
    (checkout / "skyrl-gym").mkdir()
    channel = make_session(checkout_dir=str(checkout)).attach()
    assert channel.wait_for(protocol.Welcome).workdir == str(checkout)
    assert not (checkout / "skyrl-train" / "skyrl-gym").exists()


def test_a_configured_workdir_wins(make_session: MakeSession) -> None:
    channel = make_session(workdir="a/b").attach()
    assert channel.wait_for(protocol.Welcome).workdir.endswith("SkyRL/a/b")


# --- Ray: what the session does when its start fails or takes long; a real Ray is in the contract's tests ---


def test_without_ray_on_path_runs_start_all_the_same(make_session: MakeSession) -> None:
    channel = make_session(ray=True, env={"PATH": "/usr/bin:/bin"}).attach()
    status = status_of(channel)
    assert (status.ray, status.ray_detail) == ("failed", "there is no 'ray' on PATH in this container")
    assert channel.run("echo on").exit_code == 0
    told = channel.wait_for(protocol.Notice).text
    assert told == status.ray_problem
    assert told.startswith("Ray did not start: there is no 'ray' on PATH in this container; %skyrl_restart --ray tries")


def test_ray_is_looked_for_where_it_was_started_alone(make_session: MakeSession, tmp_path: Path) -> None:
    env = program(tmp_path / "bin", "ray", "exit 0")
    for ray, address in ((True, b"auto\n"), (False, b"none\n")):
        channel = make_session(ray=ray, env=env).attach()
        channel.run("echo ${RAY_ADDRESS-none}")
        assert channel.text() == address


def test_a_failed_start_is_tried_again_and_explained(make_session: MakeSession, tmp_path: Path) -> None:
    script = f'echo "$@" >>{tmp_path}/tries; echo error: no ports >&2; echo "-----"; echo see the docs; exit 1'
    env = program(tmp_path / "bin", "ray", script)
    channel = make_session(ray=True, env=env).attach()
    assert channel.run("echo on").exit_code == 0
    status = status_of(channel)
    assert (status.ray, status.ray_detail) == ("failed", "error: no ports")
    assert [line.split()[:2] for line in (tmp_path / "tries").read_text().splitlines()] == [["start", "--head"]] * 3
    advice = "%skyrl_restart --ray tries again; cells that need no Ray go on"
    assert channel.wait_for(protocol.Notice).text == f"Ray did not start: error: no ports; {advice}"


def test_what_was_asked_for_reaches_ray(make_session: MakeSession, tmp_path: Path) -> None:
    env = program(tmp_path / "bin", "ray", f'echo "$@" >{tmp_path}/words')
    channel = make_session(ray=True, cpus=1.0, memory_mib=1000, env=env).attach()
    channel.run("true")
    words = (tmp_path / "words").read_text().split()
    assert "--num-cpus=1" in words
    assert sum(int(word.partition("=")[2]) for word in words if "memory" in word) == 1000 << 20


def test_runs_wait_for_ray_and_clients_hear_of_it(make_session: MakeSession, tmp_path: Path, gate: Gate) -> None:
    env = program(tmp_path / "bin", "ray", f"read _ <{gate}; setsid -f sleep 600 >/dev/null 2>&1 </dev/null")
    session = make_session(ray=True, env=env)
    channel = session.attach()
    channel.start("echo on")
    channel.send(protocol.WatchRun("run-1"))
    assert channel.wait_for(protocol.RunWaiting).reason == "ray"
    assert status_of(channel).ray == "starting"
    gate.say()
    pushed = channel.wait_for(protocol.Status, lambda status: status.request == 0)
    assert (pushed.ray, pushed.ray_detail) == ("ready", "")
    assert pushed.ray_seconds > 0
    assert channel.ended().exit_code == 0
    session.close()


def test_a_run_that_waits_can_be_stopped(make_session: MakeSession, tmp_path: Path) -> None:
    env = program(tmp_path / "bin", "ray", "sleep 600")
    channel = make_session(ray=True, env=env).attach()
    channel.start(f"touch {tmp_path}/ran")
    channel.send(protocol.WatchRun("run-1"))
    channel.wait_for(protocol.RunWaiting)
    channel.send(protocol.SignalRun(0, "run-1", signal.SIGINT))
    ended = channel.ended()
    assert (ended.exit_code, ended.signal, ended.stdout_bytes) == (130, signal.SIGINT, 0)
    assert not (tmp_path / "ran").exists()


def test_a_run_that_waited_for_ray_finds_its_status(make_session: MakeSession, tmp_path: Path) -> None:
    logs = tmp_path / "ray" / "session_latest" / "logs"
    # As Ray does it: the start is over, and the monitor comes up later.
    script = f"mkdir -p {logs}; (sleep 1; echo Autoscaler status >{logs}/monitor.log) >/dev/null 2>&1 &"
    env = {**program(tmp_path / "bin", "ray", script), "RAY_TMPDIR": str(tmp_path)}
    channel = make_session(ray=True, env=env).attach()
    assert channel.run(f"cat {logs}/monitor.log").exit_code == 0
    assert channel.text() == b"Autoscaler status\n"


def test_the_end_of_rays_node_is_told(make_session: MakeSession, tmp_path: Path, gate: Gate) -> None:
    node = f"setsid -f {tmp_path}/bin/raylet -c 'echo $$ >{tmp_path}/pid; read _' <{gate} >/dev/null 2>&1"
    env = program(tmp_path / "bin", "ray", f"{node}\nuntil [ -s {tmp_path}/pid ]; do sleep 0.02; done")
    (tmp_path / "bin" / "raylet").symlink_to("/bin/bash")
    channel = make_session(ray=True, env=env).attach()
    channel.run("true")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    notice = channel.wait_for(protocol.Notice)
    assert notice.text.startswith(
        "Ray's raylet has ended (SIGKILL); what uses Ray fails in this session: %skyrl_restart"
    )
    assert channel.run("echo on", "run-2").exit_code == 0
    status = status_of(channel)
    assert (status.ray, status.ray_problem) == ("failed", notice.text)


def test_ray_starts_again_and_runs_wait_for_it(make_session: MakeSession, tmp_path: Path, gate: Gate) -> None:
    # What the first start leaves is ended by the second one; a run that goes on is not.
    daemon = f"setsid -f bash -c 'echo $$ >>{tmp_path}/pids; exec sleep 600' >/dev/null 2>&1"
    env = program(tmp_path / "bin", "ray", f"[ -e {tmp_path}/works ] || exit 3; read _ <{gate}; {daemon}")
    session = make_session(ray=True, env=env)
    channel = session.attach()
    channel.run("true")
    failed = channel.wait_for(protocol.Notice)
    assert "Ray did not start: 'ray start' ended with 1" in failed.text
    channel.start(f"until [ -e {tmp_path}/over ]; do sleep 0.02; done", "run-2")
    (tmp_path / "works").touch()
    for times in (1, 2):
        assert isinstance(channel.ask(protocol.RestartRay(), protocol.Done, protocol.Failed), protocol.Done)
        assert status_of(channel).ray == "starting"
        channel.start("true", f"waits-{times}")
        channel.send(protocol.WatchRun(f"waits-{times}"))
        channel.wait_for(protocol.RunWaiting, lambda waiting: waiting.run_id == f"waits-{times}")  # noqa: B023
        gate.say()
        assert channel.ended(f"waits-{times}").exit_code == 0
        status = status_of(channel)
        assert (status.ray, status.ray_problem) == ("ready", "")
        until(lambda: lines(tmp_path / "pids") == times)  # noqa: B023
    first, second = map(int, (tmp_path / "pids").read_text().split())
    assert not alive(first)
    assert alive(second)
    assert status_of(channel).active_runs == ["run-2"]
    (tmp_path / "over").touch()
    channel.send(protocol.WatchRun("run-2"))
    assert channel.ended("run-2").exit_code == 0


def test_no_run_looks_for_a_ray_that_did_not_start(make_session: MakeSession, tmp_path: Path) -> None:
    env = program(tmp_path / "bin", "ray", f"[ -e {tmp_path}/works ] || exit 3")
    program(tmp_path / "bin", "python", f'exec {sys.executable} "$@"')
    channel = make_session(ray=True, env=env).attach()

    def address(run_id: str, kind: str) -> bytes:
        python = f"import os; open('{tmp_path}/{run_id}', 'w').write(os.environ.get('RAY_ADDRESS', ''))"
        shell = f"printf '%s' \"$RAY_ADDRESS\" >{tmp_path}/{run_id}"
        assert channel.run(shell if kind == protocol.SHELL else python, run_id, kind=kind).exit_code == 0
        return (tmp_path / run_id).read_bytes()

    for kind in (protocol.SHELL, protocol.PYTHON):  # the first one has waited for Ray, with its shim ready
        assert address(f"failed-{kind}", kind) == b""
    (tmp_path / "works").touch()
    assert isinstance(channel.ask(protocol.RestartRay(), protocol.Done, protocol.Failed), protocol.Done)
    for kind in (protocol.SHELL, protocol.PYTHON):
        assert address(f"works-{kind}", kind) == b"auto"
    with_its_own = "import os; assert os.environ['RAY_ADDRESS'] == 'mine'"
    env_of_run = {"RAY_ADDRESS": "mine"}
    assert channel.run(with_its_own, "own", kind=protocol.PYTHON, env=env_of_run).exit_code == 0


def test_a_session_without_ray_starts_none(channel: Attached) -> None:
    refused = channel.ask(protocol.RestartRay(), protocol.Done, protocol.Failed)
    assert isinstance(refused, protocol.Failed)
    assert (refused.code, "--no-ray" in refused.message) == ("no_ray", True)


def test_what_ray_leaves_running_ends_with_the_session(make_session: MakeSession, tmp_path: Path) -> None:
    daemon = f"setsid -f bash -c 'echo $$ >{tmp_path}/pid; exec sleep 600' >/dev/null 2>&1"
    session = make_session(ray=True, env=program(tmp_path / "bin", "ray", daemon))
    channel = session.attach()
    channel.run("true")
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    pid = int((tmp_path / "pid").read_text())
    assert alive(pid)
    session.close()
    assert not alive(pid)


# --- commits ---


def commit(channel: Attached) -> str:
    """Have the volume committed; what went wrong, or an empty string."""
    answer = channel.ask(protocol.CommitVolume(), protocol.Done, protocol.Failed)
    return answer.message if isinstance(answer, protocol.Failed) else ""


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def test_a_run_ends_while_its_commit_goes_on(make_session: MakeSession, tmp_path: Path, gate: Gate) -> None:
    # The copy is what a client would see on the volume from outside.
    committed = tmp_path / "committed"
    env = program(
        tmp_path / "bin",
        "sync",
        f'echo >>{tmp_path}/begun; read _ <{gate}; cp -r "$1"/. {committed}; echo >>{tmp_path}/n',
    )
    committed.mkdir()
    session = make_session(env=env)
    channel = session.attach()
    channel.run(f"echo one >{session.volume}/file")
    assert not (committed / "file").exists()
    assert status_of(channel).uncommitted
    # Those that end meanwhile share the next one, with who asks for it.
    until(lambda: lines(tmp_path / "begun") == 1)
    for number in range(2, 6):
        channel.run(f"echo {number} >{session.volume}/file", f"run-{number}")
    gate.say()
    gate.say()
    assert commit(channel) == ""
    assert (committed / "file").read_text() == "5\n"
    assert lines(tmp_path / "n") == 2
    assert not status_of(channel).uncommitted


def test_runs_in_a_row_are_committed_once(make_session: MakeSession, tmp_path: Path) -> None:
    channel = make_session(env=program(tmp_path / "bin", "sync", f"echo >>{tmp_path}/count")).attach()
    ids = [f"run-{number}" for number in range(20)]
    for run_id in ids:
        channel.send(protocol.StartRun(0, run_id, payload=b"true"), protocol.WatchRun(run_id))
    for run_id in ids:
        channel.ended(run_id)
    assert commit(channel) == ""
    assert 1 <= lines(tmp_path / "count") < len(ids)


def test_a_failed_commit_is_one_line(make_session: MakeSession, tmp_path: Path) -> None:
    env = program(
        tmp_path / "bin", "sync", f"[ -e {tmp_path}/works ] && exit; printf 'disk on fire\\nmore\\n' >&2; exit 1"
    )
    session = make_session(env=env)
    channel = session.attach()
    assert channel.run("exit 3").exit_code == 3
    text = "the volume could not be committed: disk on fire"
    first = channel.wait_for(protocol.Notice)
    assert first.text == f"{text}; the next run's end commits again"
    assert commit(channel) == text
    # Who comes later hears of it as well, and of each run's failure anew.
    assert session.attach().wait_for(protocol.Notice).text == first.text
    channel.run("true", "run-2")
    channel.wait_for(protocol.Notice, lambda notice: notice.about != first.about)
    (tmp_path / "works").touch()
    channel.run("true", "run-3")
    assert commit(channel) == ""
    later = session.attach()
    assert status_of(later).uncommitted is False
    assert not [frame for frame in later.frames if isinstance(frame, protocol.Notice)]


@pytest.mark.timeout(120)
def test_the_volume_is_committed_while_a_run_goes_on(make_session: MakeSession, tmp_path: Path) -> None:
    channel = make_session(env=program(tmp_path / "bin", "sync", f"echo x >>{tmp_path}/count")).attach()
    channel.start("sleep 600")
    until((tmp_path / "count").exists)
    assert status_of(channel).active_runs == ["run-1"]


def test_a_session_is_not_idle_before_its_commit(make_session: MakeSession, tmp_path: Path, gate: Gate) -> None:
    env = program(tmp_path / "bin", "sync", f"touch {tmp_path}/begun; read _ <{gate}")
    session = make_session(env=env, idle_timeout_s=0.5)
    channel = session.attach()
    channel.run("true")
    until((tmp_path / "begun").exists)
    until(lambda: status_of(channel).idle_s > 1.5)  # three times as long as it may be idle
    assert session.process.poll() is None
    for _ in range(3):  # its own, that of the log, the last one
        gate.say()
    assert session.wait() == 0


def test_the_end_waits_for_a_slow_commit(make_session: MakeSession, tmp_path: Path) -> None:
    committed = tmp_path / "committed"
    env = program(tmp_path / "bin", "sync", f'sleep 6; cp -r "$1"/. {committed}')
    committed.mkdir()
    session = make_session(env=env)
    channel = session.attach()
    channel.run(f"echo one >{session.volume}/file")
    until(lambda: status_of(channel).uncommitted)
    channel.run(f"echo two >{session.volume}/file", "run-2")  # for the second commit, which ends after 12 s
    channel.ask(protocol.StopSession(), protocol.Done)
    assert session.wait() == 0
    assert (committed / "file").read_text() == "two\n"


def test_a_volume_of_version_1_is_never_synced(make_session: MakeSession, mailbox: Path, tmp_path: Path) -> None:
    env = program(tmp_path / "bin", "sync", f"touch {tmp_path}/synced") | {"SKYRL_COMMIT_MAILBOX": str(mailbox)}
    session = make_session(env=env, volume_version=1)
    channel = session.attach()
    channel.run(f"echo one >{session.volume}/file")
    status = status_of(channel)
    assert (status.volume_version, status.uncommitted) == (1, False)
    assert commit(channel) == ""
    channel.ask(protocol.StopSession(), protocol.Done)
    assert session.wait() == 0
    assert not (tmp_path / "synced").exists()
    assert list((tmp_path / "committed").iterdir()) == []
    assert (session.volume / protocol.CATALOGS).is_dir()  # its log is there, and Modal commits


@pytest.fixture
def mailbox(tmp_path: Path) -> Iterator[Path]:
    """A mailbox for commits, as the local server's keeper has one; it fails while there is a file ``fail``."""
    control, committed = tmp_path / "control", tmp_path / "committed"
    control.mkdir()
    committed.mkdir()
    os.mkfifo(control / "requests")
    both = os.open(control / "requests", os.O_RDWR)
    script = (
        f'while read -r word reply path; do cp -r "${{path%//}}"/. {committed}\n'
        f'[ -e {tmp_path}/fail ] && answer="failed disk on fire" || answer=ok\n'
        f'echo "$answer" >"{control}/$reply"; done'
    )
    with subprocess.Popen(["bash", "-c", script], stdin=both) as keeper:
        os.close(both)
        yield control / "requests"
        keeper.kill()


def test_a_mailbox_commits_without_sync(make_session: MakeSession, mailbox: Path, tmp_path: Path) -> None:
    env = program(tmp_path / "bin", "sync", "echo used; exit 1") | {"SKYRL_COMMIT_MAILBOX": str(mailbox)}
    session = make_session(env=env)
    channel = session.attach()
    channel.run(f"echo one >{session.volume}/file")
    assert commit(channel) == ""
    assert (tmp_path / "committed" / "file").read_text() == "one\n"
    (tmp_path / "fail").touch()
    channel.run("true", "run-2")
    notice = channel.wait_for(protocol.Notice)
    assert notice.text == "the volume could not be committed: disk on fire; the next run's end commits again"
    (tmp_path / "fail").unlink()
    channel.run(f"echo two >{session.volume}/file", "run-3")
    channel.ask(protocol.StopSession(), protocol.Done)
    assert session.wait() == 0
    assert (tmp_path / "committed" / "file").read_text() == "two\n"


def test_a_mailbox_that_nobody_reads_is_left_alone(make_session: MakeSession, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "requests")
    env = program(tmp_path / "bin", "sync", f"touch {tmp_path}/used")
    channel = make_session(env=env | {"SKYRL_COMMIT_MAILBOX": str(tmp_path / "requests")}).attach()
    channel.run("true")
    assert commit(channel) == ""
    assert (tmp_path / "used").exists()


# --- the end ---


def test_a_session_is_not_idle_while_something_runs(channel: Attached, gate: Gate) -> None:
    channel.start(f"read _ <{gate}")
    channel.send(protocol.WatchRun("run-1"))
    channel.wait_for(protocol.RunStarted)
    assert (status_of(channel).idle_s, status_of(channel).active_runs) == (0.0, ["run-1"])
    gate.say()
    channel.ended()
    assert status_of(channel).idle_s > 0
    assert status_of(channel).active_runs == []


def test_idle_time_ends_the_session(make_session: MakeSession) -> None:
    session = make_session(idle_timeout_s=1.0)
    channel = session.attach()
    channel.run("sleep 2; echo long")  # longer than the idle time, which does not run meanwhile
    assert channel.text() == b"long\n"
    assert session.wait() == 0
    assert channel.process.wait(60) == 69


def test_pings_and_looks_do_not_keep_a_session(make_session: MakeSession) -> None:
    session = make_session(idle_timeout_s=1.5)
    channel = session.attach()

    def look() -> None:
        for _ in range(1200):
            channel.send(protocol.Ping(1))
            channel.ask(protocol.GetStatus(), protocol.Status)
            channel.ask(protocol.ListRuns(), protocol.RunList)
            time.sleep(0.05)

    with pytest.raises((EOFError, BrokenPipeError)):
        look()
    assert session.wait() == 0


def test_use_keeps_a_session(make_session: MakeSession) -> None:
    session = make_session(idle_timeout_s=3.0)
    channel = session.attach()
    channel.run("echo 1")
    began = time.monotonic()
    while time.monotonic() - began < 4.5:
        channel.journal()
        time.sleep(0.3)
    assert session.process.poll() is None


def test_a_session_to_which_nobody_comes_ends(make_session: MakeSession) -> None:
    orphan = make_session(first_client_s=0.2)
    assert orphan.wait() == 0
    assert "nobody came within 0.2s of its start" in orphan.log.read_text()


def test_who_has_come_may_leave_again(make_session: MakeSession) -> None:
    session = make_session(first_client_s=1.0, idle_timeout_s=2.5)
    assert session.attach().close() == 0
    assert session.wait() == 0
    assert "nothing ran for 2.5s (--idle-timeout)" in session.log.read_text()


def test_a_session_that_cannot_write_says_so(make_session: MakeSession) -> None:
    session = make_session(checkout_dir="/dev/full/SkyRL")
    assert session.wait() == 1
    says = "its agent cannot start (Not a directory at /dev/full/SkyRL): run the cell again, or choose another --image"
    assert f"skyrl_magic: {protocol.SESSION_ENDS}{says}" in session.log.read_text()


def test_idle_time_can_be_changed(make_session: MakeSession) -> None:
    session = make_session()
    channel = session.attach()
    for wrong in (
        protocol.Configure(idle_timeout_s=-1.0),
        protocol.Configure(idle_timeout_s=5.0, timeout_s=-1.0),
        protocol.Configure(idle_timeout_s=5.0, timeout_s=900.0, max_usd=-1.0),
    ):
        assert isinstance(channel.ask(wrong, protocol.Done, protocol.Failed), protocol.Failed)
        assert status_of(channel).timeout_s == 0.0
    assert isinstance(channel.ask(protocol.Configure(), protocol.Done, protocol.Failed), protocol.Done)
    assert status_of(channel).idle_timeout_s == 600.0
    channel.ask(protocol.Configure(idle_timeout_s=0.5), protocol.Done)
    assert session.wait() == 0


def test_sigterm_stops_runs_and_tells_their_watchers(make_session: MakeSession, tmp_path: Path) -> None:
    env = program(tmp_path / "bin", "sync", f'cp -r "$1"/. {tmp_path}/committed')
    (tmp_path / "committed").mkdir()
    session = make_session(env=env)
    channel = session.attach()
    at_term = f"echo bye; echo late >{session.volume}/late; exit 9"
    channel.start(f"trap '{at_term}' TERM; echo up; while :; do sleep 0.05; done")
    channel.send(protocol.WatchRun("run-1"))
    channel.wait_for_output(b"up\n")
    session.process.send_signal(signal.SIGTERM)
    assert channel.ended().exit_code == 9
    assert channel.ended().reason == "the backend ended its container (it was preempted, or stopped there)"
    assert channel.text() == b"up\nbye\n"
    assert session.wait() == 0
    assert f"skyrl_magic: {protocol.SESSION_ENDS}{channel.ended().reason}\n" in session.log.read_text()
    assert (tmp_path / "committed" / "late").exists()
    assert channel.process.wait(60) == 69


def test_sigterm_at_the_end_of_its_time_is_the_timeout(make_session: MakeSession) -> None:
    session = make_session(hard_timeout_s=4.0)  # where the backend's clock is ahead: from the second half on
    channel = session.attach()
    channel.start("sleep 600")
    channel.send(protocol.WatchRun("run-1"))
    until(lambda: status_of(channel).timeout_in_s < 1.5)
    session.process.send_signal(signal.SIGTERM)
    assert channel.ended().reason == "its hard timeout was over (4s)"
    assert session.wait() == 0


def test_sigterm_kills_what_does_not_go(session: Session, channel: Attached, tmp_path: Path) -> None:
    channel.start(f"trap '' TERM; echo $$ >{tmp_path}/pid; echo up; while :; do sleep 0.05; done")
    channel.send(protocol.WatchRun("run-1"))
    channel.wait_for_output(b"up\n")
    session.process.send_signal(signal.SIGTERM)
    assert channel.ended().signal == signal.SIGKILL
    assert session.wait() == 0
    assert not alive(int((tmp_path / "pid").read_text()))


def test_stop_session_is_answered_first(session: Session, channel: Attached, gate: Gate) -> None:
    assert channel.run("kill -TERM $$", "before").reason == ""
    channel.start(f"trap 'read _ <{gate}; exit 1' TERM; echo up; while :; do sleep 0.01; done")
    channel.send(protocol.WatchRun("run-1"))
    channel.wait_for_output(b"up\n")
    assert isinstance(channel.ask(protocol.StopSession(), protocol.Done), protocol.Done)
    late = channel.ask(protocol.StartRun(0, "run-2", payload=b"true"), protocol.Done, protocol.Failed)
    assert isinstance(late, protocol.Failed)
    assert late.code == "stopping"
    gate.say()
    assert channel.ended().reason == "%skyrl_stop ended it"
    assert session.wait() == 0


def test_no_kernel_begins_while_the_session_ends(session: Session, channel: Attached, gate: Gate) -> None:
    started = f"import atexit\natexit.register(lambda: open({str(gate)!r}).readline())"
    channel.run(started, kind=protocol.PYTHON)
    channel.send(protocol.RestartKernel(901))  # waits for the kernel's end
    channel.ask(protocol.StopSession(), protocol.Done)
    late = channel.ask(protocol.RestartKernel(0, keep=True), protocol.Done, protocol.Failed)
    assert isinstance(late, protocol.Failed)
    assert late.code == protocol.STOPPING
    gate.say()
    waited = channel.wait_for(protocol.Failed, lambda frame: frame.request == 901)
    assert waited.code == protocol.STOPPING
    assert session.wait() == 0


def test_a_run_whose_shim_does_not_answer_does_not_keep_the_container(
    session: Session, channel: Attached, tmp_path: Path, gate: Gate
) -> None:
    channel.start(f"read x <{gate}; kill -STOP $PPID; touch {tmp_path}/stopped")
    gate.say()
    until((tmp_path / "stopped").exists)
    channel.ask(protocol.StopSession(), protocol.Done)
    assert session.wait() == 0


def test_a_killed_supervisor_takes_its_runs_with_it(session: Session, channel: Attached, tmp_path: Path) -> None:
    channel.start(f"echo $$ >{tmp_path}/pid; echo up; sleep 600")
    channel.send(protocol.WatchRun("run-1"))
    channel.wait_for_output(b"up\n")
    os.kill(session.pid, signal.SIGKILL)
    assert session.wait() == 128 + signal.SIGKILL
    until(lambda: not alive(int((tmp_path / "pid").read_text())))
    assert channel.process.wait(60) == 69


def test_a_wrong_configuration_is_refused(agent: Path) -> None:
    for text in ("{", "[]", '{"session": "x"}'):
        command = [sys.executable, "-IS", str(agent), "supervise", "--config", text]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert done.returncode == 2
        assert b"--config" in done.stderr
