"""Ending a run for good, from the agent's side; how far notebooks have shown a run; the cap of runs at once."""

from __future__ import annotations

import signal

import pytest

from skyrl_magic.core import protocol
from tests.unit.agent.harness import Attached, Session

_DEAF = "trap '' INT TERM; echo up; while :; do sleep 0.05; done"


def end(channel: Attached, grace_s: float, run_id: str = "run-1") -> None:
    answer = channel.ask(protocol.EndRun(0, run_id, grace_s), protocol.Done, protocol.Failed)
    assert isinstance(answer, protocol.Done), answer


def start(channel: Attached, script: str) -> None:
    channel.start(script)
    channel.send(protocol.WatchRun("run-1"))
    channel.wait_for_output(b"up\n")


def test_a_run_that_hears_ends_by_the_first_signal(channel: Attached) -> None:
    start(channel, "echo up; sleep 600")
    end(channel, 60)
    assert channel.ended().signal == signal.SIGINT


def test_a_deaf_run_is_killed_after_the_grace_periods(channel: Attached) -> None:
    start(channel, _DEAF)
    end(channel, 0.05)
    assert channel.ended().signal == signal.SIGKILL


def test_a_second_request_does_not_wait_for_the_grace_period(channel: Attached) -> None:
    start(channel, "trap '' INT; echo up; while :; do sleep 0.05; done")
    end(channel, 600)
    end(channel, 600)
    assert channel.ended().signal == signal.SIGTERM


def test_the_run_is_ended_also_when_the_client_is_killed(session: Session, channel: Attached) -> None:
    start(channel, _DEAF)
    end(channel, 0.2)
    channel.kill()
    other = session.attach()
    other.send(protocol.WatchRun("run-1"))
    assert other.ended().signal == signal.SIGKILL


def test_an_impossible_grace_period_is_refused(channel: Attached) -> None:
    start(channel, "echo up; sleep 600")
    for grace_s in (-1.0, float("nan")):
        answer = channel.ask(protocol.EndRun(0, "run-1", grace_s), protocol.Done, protocol.Failed)
        assert isinstance(answer, protocol.Failed)
    answer = channel.ask(protocol.EndRun(0, "run-2", 1.0), protocol.Done, protocol.Failed)
    assert isinstance(answer, protocol.Failed)
    assert answer.code == "unknown_run"


def summary(channel: Attached) -> protocol.RunSummary:
    listed = channel.ask(protocol.ListRuns(), protocol.RunList)
    assert isinstance(listed, protocol.RunList)
    return protocol.RunSummary(**listed.runs[0])


def test_what_notebooks_have_shown_is_kept_for_who_attaches(session: Session, channel: Attached) -> None:
    channel.run("echo up")
    channel.send(protocol.Seen("run-1", "mine", 2, 0, 0), protocol.Seen("no-run", "mine", 1, 1, 1))
    assert summary(channel).seen == {"mine": [2, 0, 0]}
    channel.kill()
    assert summary(session.attach()).seen == {"mine": [2, 0, 0]}


def test_only_the_notebooks_that_looked_last_are_kept(channel: Attached) -> None:
    channel.run("echo up")
    channel.send(*(protocol.Seen("run-1", f"notebook {number}", number, 0, 0) for number in range(40)))
    seen = summary(channel).seen
    assert len(seen) == 16
    assert seen["notebook 39"] == [39, 0, 0]


@pytest.mark.parametrize("kind", [protocol.SHELL, protocol.PYTHON])
def test_more_runs_than_the_cap_are_refused(channel: Attached, kind: str) -> None:
    start(channel, "echo up; sleep 600")
    request = protocol.StartRun(0, "run-2", max_runs=1, kind=kind, payload=b"1")
    answer = channel.ask(request, protocol.Done, protocol.Failed)
    assert isinstance(answer, protocol.Failed)
    assert answer.code == "busy"
    assert "%skyrl_cancel" in answer.message
    again = channel.ask(protocol.StartRun(0, "run-1", max_runs=1, payload=b"1"), protocol.Done, protocol.Failed)
    assert isinstance(again, protocol.Done), "a start that is sent again is the same run"
