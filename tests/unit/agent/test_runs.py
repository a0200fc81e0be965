"""Runs: what bash does with a cell, and what of it arrives."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from pathlib import Path

import pytest

from skyrl_magic.core import protocol
from tests.unit.agent.harness import Attached, Gate, Session, alive, until


def test_hello_tells_which_agent_session_and_folder(session: Session, channel: Attached) -> None:
    welcome = channel.wait_for(protocol.Welcome)
    assert welcome.session == "test"
    assert len(welcome.agent_hash) == 64
    assert welcome.workdir == str(session.checkout)


def test_streams_come_apart_with_the_exit_code(channel: Attached) -> None:
    ended = channel.run("echo out; echo err >&2; exit 3")
    assert channel.text() == b"out\n"
    assert channel.text(protocol.STDERR) == b"err\n"
    assert (ended.exit_code, ended.signal) == (3, 0)
    assert (ended.stdout_bytes, ended.stderr_bytes) == (4, 4)
    assert ended.duration_s > 0


def test_frames_come_in_the_order_of_a_runs_life(channel: Attached, gate: Gate) -> None:
    channel.start(f"read _ <{gate}; echo hi")
    channel.send(protocol.WatchRun("run-1"))
    channel.wait_for(protocol.RunStarted)
    gate.say()
    channel.ended()
    kinds = [type(f) for f in channel.frames if getattr(f, "run_id", "") == "run-1"]
    assert kinds == [protocol.RunStarted, protocol.Output, protocol.RunEnded]


def test_start_and_watch_may_be_sent_together(channel: Attached) -> None:
    channel.send(protocol.StartRun(1, "run-1", payload=b"echo hi"), protocol.WatchRun("run-1"))
    assert channel.ended().exit_code == 0
    assert channel.text() == b"hi\n"


def test_streams_alternate_in_order_of_arrival(channel: Attached, gate: Gate) -> None:
    # The run goes on only when the last line has arrived, so the order is no accident.
    script = f"for i in 1 2 3; do echo out$i; read _ <{gate}; echo err$i >&2; read _ <{gate}; done"
    channel.start(script)
    channel.send(protocol.WatchRun("run-1"))
    expected = []
    for number in (b"1", b"2", b"3"):
        for stream, word in ((protocol.STDOUT, b"out"), (protocol.STDERR, b"err")):
            channel.wait_for_output(word + number + b"\n", stream)
            expected.append((stream, word + number + b"\n"))
            gate.say()
    channel.ended()
    channel.send(protocol.WatchRun("run-1", stdout=protocol.ALL, stderr=protocol.ALL))
    before = len(channel.outputs())
    channel.wait_for(protocol.RunEnded, lambda frame: frame is not channel.ended())
    for outputs in (channel.outputs()[:before], channel.outputs()[before:]):
        assert [(frame.stream, frame.payload) for frame in outputs] == expected


def test_a_partial_line_comes_before_its_end(channel: Attached, gate: Gate) -> None:
    channel.start(f"printf 50%%; read _ <{gate}; printf ' 100%%'")
    channel.send(protocol.WatchRun("run-1"))
    channel.wait_for_output(b"50%")
    assert channel.text() == b"50%"
    gate.say()
    channel.ended()
    assert channel.text() == b"50% 100%"


@pytest.mark.parametrize("data", [b"\xff\xfe\x00\x80", b"a\x00b", "grün 雪".encode(), b"\r\n\x1b[31m"])
def test_bytes_stay_as_they_are(channel: Attached, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bytes").write_bytes(data)
    channel.run(f"cat {tmp_path / 'bytes'}")
    assert channel.text() == data
    assert channel.journal() == data


def test_half_a_character_is_sent_at_the_end_of_the_run(channel: Attached) -> None:
    channel.run(r"printf '\xe9\x9b'")
    assert channel.text() == b"\xe9\x9b"


def test_here_documents_quotes_and_variables_reach_bash_unchanged(channel: Attached) -> None:
    channel.run("x='a b'; cat <<EOF\n$x {y} \"q\" \\$x\nEOF\ncat <<'EOF'\n$x $(date)\nEOF")
    assert channel.text() == b'a b {y} "q" $x\n$x $(date)\n'


def test_a_cell_of_five_megabytes_runs(channel: Attached) -> None:
    script = f": {'x' * 5_000_000}\necho done"
    assert channel.run(script).exit_code == 0
    assert channel.text() == b"done\n"


def test_a_multiline_cell_is_named_by_its_first_line(channel: Attached) -> None:
    channel.run("\n\n# train\necho 1")
    listed = channel.ask(protocol.ListRuns(), protocol.RunList)
    assert isinstance(listed, protocol.RunList)
    [run] = listed.runs
    summary = protocol.RunSummary(**run)
    assert (summary.run_id, summary.state, summary.command) == ("run-1", "ended", "# train")
    assert (summary.exit_code, summary.stdout_bytes, summary.stderr_bytes) == (0, 2, 0)


def test_environment_is_the_containers_and_the_runs(channel: Attached) -> None:
    channel.run("echo $SKYRL_A; echo ${HOME:+home}", env={"SKYRL_A": "a 'b' ü"})
    assert channel.text() == "a 'b' ü\nhome\n".encode()


def test_errexit_stops_at_the_first_failure(channel: Attached) -> None:
    assert channel.run("false; echo on", "run-1").exit_code == 0
    assert channel.run("false; echo on", "run-2", errexit=True).exit_code == 1
    assert (channel.text(run_id="run-1"), channel.text(run_id="run-2")) == (b"on\n", b"")


def test_workdir_is_relative_to_the_sessions(session: Session, channel: Attached, tmp_path: Path) -> None:
    (session.checkout / "sub").mkdir()
    channel.run("pwd -P", "run-1")
    channel.run("pwd -P", "run-2", workdir="sub")
    channel.run("pwd -P", "run-3", workdir=str(tmp_path))
    folders = [channel.text(run_id=f"run-{n}").decode().strip() for n in (1, 2, 3)]
    assert folders == [str(path.resolve()) for path in (session.checkout, session.checkout / "sub", tmp_path)]


def test_a_missing_workdir_is_said_on_stderr(channel: Attached) -> None:
    assert channel.run("echo never", workdir="nowhere").exit_code == 2
    assert channel.text() == b""
    assert b"nowhere does not exist" in channel.text(protocol.STDERR)


def test_a_workdir_that_is_a_file_is_said_to_be_one(session: Session, channel: Attached) -> None:
    (session.checkout / "file").touch()
    assert channel.run("echo never", workdir="file").exit_code == 2
    assert b"file is no folder" in channel.text(protocol.STDERR)


def test_a_container_without_bash_says_so(channel: Attached, tmp_path: Path) -> None:
    assert channel.run("echo never", env={"PATH": str(tmp_path)}).exit_code == 127
    assert b"no bash on PATH" in channel.text(protocol.STDERR)


def test_stdin_is_empty(channel: Attached) -> None:
    assert channel.run("cat; read x || echo none").exit_code == 0
    assert channel.text() == b"none\n"


def test_sigpipe_ends_a_writer_as_in_a_shell(channel: Attached) -> None:
    channel.run("yes | head -n 1; echo ${PIPESTATUS[0]}")
    assert channel.text() == b"y\n141\n"


def test_writing_to_dev_stdout_keeps_what_was_there(channel: Attached) -> None:
    channel.run("echo a; echo b >/dev/stdout; echo c")
    assert channel.text() == b"a\nb\nc\n"


def test_a_run_lasts_as_long_as_its_background_output(channel: Attached) -> None:
    ended = channel.run("(sleep 0.2; echo late) & echo early")
    assert channel.text() == b"early\nlate\n"
    assert ended.exit_code == 0


def test_starting_twice_starts_once(channel: Attached, tmp_path: Path) -> None:
    script = f"echo x >>{shlex.quote(str(tmp_path / 'count'))}"
    channel.start(script)
    channel.start(script)
    channel.send(protocol.WatchRun("run-1"))
    channel.ended()
    channel.start(script)
    assert channel.run("true", "run-2").exit_code == 0
    assert (tmp_path / "count").read_text() == "x\n"


def test_many_runs_at_once(channel: Attached) -> None:
    ids = [f"run-{number}" for number in range(12)]
    for run_id in ids:
        channel.send(protocol.StartRun(0, run_id, payload=f"echo {run_id}; sleep 0.1".encode()))
        channel.send(protocol.WatchRun(run_id))
    for run_id in ids:
        assert channel.ended(run_id).exit_code == 0
        assert channel.text(run_id=run_id) == f"{run_id}\n".encode()


def test_many_runs_are_listed_in_parts(channel: Attached) -> None:
    ids = [f"run-{number}" for number in range(70)]
    for run_id in ids:
        channel.run("true", run_id)
    listed: list[str] = []
    for first, more in ((0, True), (64, False)):
        part = channel.ask(protocol.ListRuns(first=first), protocol.RunList)
        assert isinstance(part, protocol.RunList)
        assert part.more is more
        listed += [run["run_id"] for run in part.runs]
    assert listed == ids


@pytest.mark.parametrize("run_id", ["", "..", "a/b", "../x", "a" * 65, ".hidden", "a\n"])
def test_a_name_that_no_run_can_have_is_refused(channel: Attached, run_id: str) -> None:
    answer = channel.ask(protocol.StartRun(0, run_id, payload=b"true"), protocol.Done, protocol.Failed)
    assert isinstance(answer, protocol.Failed)
    assert answer.code == "bad_request"
    answer = channel.ask(protocol.ReadJournal(0, run_id), protocol.JournalData, protocol.Failed)
    assert isinstance(answer, protocol.Failed)
    assert answer.code == "unknown_run"


def test_unknown_runs_are_refused_by_code(channel: Attached) -> None:
    for request in (protocol.SignalRun(0, "no", 2), protocol.ReadJournal(0, "no")):
        answer = channel.ask(request, protocol.Failed)
        assert isinstance(answer, protocol.Failed)
        assert answer.code == "unknown_run"
    channel.send(protocol.WatchRun("no"))
    assert channel.wait_for(protocol.Failed, lambda frame: frame.request == 0).code == "unknown_run"


def test_journal_ranges(channel: Attached) -> None:
    channel.run("printf 0123456789; printf abc >&2")
    assert channel.journal(start=3, end=6) == b"345"
    assert channel.journal(start=8, end=99) == b"89"
    assert channel.journal(start=4) == b"456789"
    assert channel.journal(start=10) == b""
    assert channel.journal(stream=protocol.STDERR) == b"abc"
    answer = channel.ask(protocol.ReadJournal(0, "run-1", "stdlog"), protocol.Failed)
    assert isinstance(answer, protocol.Failed)
    assert answer.code == "bad_request"


def test_a_detached_child_outlives_its_run(channel: Attached, tmp_path: Path, gate: Gate) -> None:
    channel.run(f"nohup setsid bash -c 'read x <{gate}; echo $x >{tmp_path}/told' >/dev/null 2>&1 &")
    gate.say("alive")
    assert channel.run(f"while ! grep -q alive {tmp_path}/told; do sleep 0.05; done", "run-2").exit_code == 0


def children(pid: int) -> set[int]:
    """The living processes that ``pid`` has forked."""
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if alive(int(child))}


@pytest.mark.parametrize("damage", ["killed", "its folder is gone"])
def test_the_next_runs_shim_is_replaced_when_it_cannot_be_used(
    session: Session, channel: Attached, damage: str
) -> None:
    assert channel.run("true").exit_code == 0
    until(lambda: len(children(session.pid)) == 1)  # the last run's shim has left, the next one's waits
    if damage == "killed":
        spare = children(session.pid).pop()
        os.kill(spare, signal.SIGKILL)
        until(lambda: not alive(spare))
    else:
        until(lambda: any((session.config.state / "runs").glob(".next-*")))
        shutil.rmtree(next((session.config.state / "runs").glob(".next-*")))
    ended = channel.run("echo $((6 * 7))", "run-2")
    assert (ended.exit_code, channel.text(run_id="run-2")) == (0, b"42\n")
    assert channel.run("exit 3", "run-3").exit_code == 3


def test_a_full_disk_neither_blocks_nor_ends_the_run(session: Session, channel: Attached) -> None:
    # The limit on a file's size meets the shim's writes as a full disk does.
    import resource

    pid = session.pid
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    channel.run("true", "run-0")  # takes the shim that was forked before the limit
    ended = channel.run("ulimit -f unlimited; head -c 30000000 /dev/zero; echo over >&2; exit 4")
    assert ended.exit_code == 4
    assert ended.stdout_bytes == 1_000_000
    assert channel.text(protocol.STDERR) == b"over\n"
    assert ended.journal_error == "29000000 bytes of output could not be kept: File too large"
