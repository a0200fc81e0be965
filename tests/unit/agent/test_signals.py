"""Stop means stopped: signals reach a run's whole tree."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from skyrl_magic.core import protocol
from tests.unit.agent.harness import Attached, Gate, Session, alive, until


def send(channel: Attached, number: int, run_id: str = "run-1") -> None:
    answer = channel.ask(protocol.SignalRun(0, run_id, number), protocol.Done, protocol.Failed)
    assert isinstance(answer, protocol.Done), answer


def start(channel: Attached, script: str) -> None:
    """Start a script and wait until it has printed "up"."""
    channel.start(script)
    channel.send(protocol.WatchRun("run-1"))
    channel.wait_for_output(b"up\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_a_run_with_its_number(channel: Attached, number: signal.Signals) -> None:
    start(channel, "echo up; sleep 600")
    send(channel, number)
    ended = channel.ended()
    assert (ended.exit_code, ended.signal) == (128 + number, number)


def test_sigint_reaches_the_whole_tree(channel: Attached, tmp_path: Path) -> None:
    # Not started with `&`: bash makes such children ignore SIGINT, and a shell cannot undo that.
    (tmp_path / "child").write_text(f"""
trap 'echo "$1" >>{tmp_path}/hit; exit' INT
echo $$ >>{tmp_path}/up
while :; do sleep 0.05; done
""")
    (tmp_path / "up").touch()
    script = f"""
setsid -f bash {tmp_path}/child setsid
setsid -f setsid -f bash {tmp_path}/child double
while [ "$(wc -l <{tmp_path}/up)" != 2 ]; do sleep 0.02; done
echo up
sleep 600
"""
    start(channel, script)
    send(channel, signal.SIGINT)
    assert channel.ended().exit_code == 130
    assert sorted((tmp_path / "hit").read_text().split()) == ["double", "setsid"]
    assert not any(alive(int(pid)) for pid in (tmp_path / "up").read_text().split())


def test_a_run_may_survive_sigint(channel: Attached) -> None:
    # Not one long sleep: a signal that comes before bash has forked it would not reach it.
    start(channel, "trap 'echo caught; on=1' INT; echo up; until [ \"$on\" ]; do sleep 0.01; done; exit 7")
    send(channel, signal.SIGINT)
    assert channel.ended().exit_code == 7
    assert channel.text() == b"up\ncaught\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_a_handler_starts_does_not_get_the_signal_as_well(channel: Attached, number: signal.Signals) -> None:
    """A trap that cleans up starts programs, while the tree, a large one, is walked."""
    steps = "for i in {1..20}; do sleep 0.05 || echo hit; done; kill -KILL $(jobs -p)"
    trap = f"trap '{steps}; echo clean; exit 7' {number.name[3:]}"
    large = "for i in {1..200}; do sleep 600 >/dev/null 2>&1 & done"
    start(channel, f"{large}; {trap}; echo up; while :; do sleep 0.01; done")
    send(channel, number)
    assert channel.ended().exit_code == 7
    assert channel.text() == b"up\nclean\n"


def test_a_stopped_run_is_not_over_before_what_it_started_is(channel: Attached, tmp_path: Path, gate: Gate) -> None:
    # Neither holds the run's output, and bash lets what it starts with `&` ignore SIGINT.
    start(
        channel,
        f"""
sleep 600 >/dev/null 2>&1 & echo $! >>{tmp_path}/pids
setsid -f bash -c 'trap "" INT; echo $$ >>{tmp_path}/pids; read _ <{gate}; exec sleep 600' >/dev/null 2>&1
until [ "$(wc -l <{tmp_path}/pids)" = 2 ]; do sleep 0.02; done
echo up; wait
""",
    )
    send(channel, signal.SIGINT)
    gate.say()  # the second one has heard SIGINT, and goes on
    send(channel, signal.SIGTERM)
    assert channel.ended().signal == signal.SIGINT
    assert not any(alive(int(pid)) for pid in (tmp_path / "pids").read_text().split())


def test_sigkill_leaves_nothing_of_a_tree_that_forks(channel: Attached, tmp_path: Path) -> None:
    (tmp_path / "forker").write_text(f"""
trap '' INT TERM
while :; do setsid bash -c 'echo $$ >>{tmp_path}/pids; sleep 600' & sleep 0.01; done
""")
    start(channel, f"trap '' INT TERM; setsid bash {tmp_path}/forker >/dev/null 2>&1 & echo up; wait")
    until(lambda: (tmp_path / "pids").exists() and len((tmp_path / "pids").read_text().split()) > 10)
    send(channel, signal.SIGKILL)
    assert channel.ended().signal == signal.SIGKILL
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert not [pid for pid in pids if alive(pid)]


def test_kill_zero_in_a_cell_ends_the_cell_and_not_its_shim(channel: Attached) -> None:
    ended = channel.run("echo up; kill -TERM 0; sleep 600")
    assert ended.exit_code == 128 + signal.SIGTERM
    assert channel.text() == b"up\n"
    assert channel.run("echo on", "run-2").exit_code == 0


def test_a_run_whose_shim_is_killed_is_over(session: Session, channel: Attached, tmp_path: Path, gate: Gate) -> None:
    start(channel, f"echo $$ >{tmp_path}/pid; echo up; read _ <{gate}; kill -KILL $PPID; sleep 600")
    gate.say()
    ended = channel.ended()
    assert (ended.exit_code, ended.stdout_bytes) == (137, 3)
    assert channel.text() == b"up\n"
    assert channel.run("echo on", "run-2").exit_code == 0
    bash = int((tmp_path / "pid").read_text())
    assert alive(bash)  # nobody knows whose it was; it ends with the container
    session.close()
    assert not alive(bash)


def test_signals_to_a_run_that_is_over_are_no_error(channel: Attached) -> None:
    channel.run("true")
    send(channel, signal.SIGINT)


def test_a_number_that_is_no_signal_is_refused(channel: Attached) -> None:
    channel.run("true")
    answer = channel.ask(protocol.SignalRun(0, "run-1", 4711), protocol.Done, protocol.Failed)
    assert isinstance(answer, protocol.Failed)
    assert answer.code == "bad_request"


def test_a_stop_is_not_behind_output_that_nobody_takes(session: Session, channel: Attached) -> None:
    channel.start("head -c 30000000 /dev/urandom; echo full >&2; sleep 600")
    other = session.attach()
    other.send(protocol.WatchRun("run-1", stdout=protocol.NONE))
    other.wait_for_output(b"full\n", protocol.STDERR)
    # From here on nobody reads this channel: far more waits in it than it can hold.
    channel.send(protocol.WatchRun("run-1", stdout=protocol.ALL), protocol.SignalRun(0, "run-1", signal.SIGINT))
    assert other.ended().signal == signal.SIGINT
    assert len(channel.text()) < 30_000_000
    channel.ended()
    assert len(channel.text()) == 30_000_000
