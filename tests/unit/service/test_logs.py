from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import SessionLost, UnknownRun
from skyrl_magic.core.spec import RunRequest
from skyrl_magic.service import logs
from skyrl_magic.service.run_log import LiveLog, last_lines
from skyrl_magic.service.session import Session
from skyrl_magic.service.watch import Lost, payload_bytes
from tests.unit.service.conftest import Recorder, World, sandbox_of
from tests.unit.service.processes import DEADLINE_S

#: Larger than what the first read from the end brings.
LINES = 60_000
MANY = "".join(f"line {n:06}\n" for n in range(LINES)).encode()


@pytest.fixture
def ended(world: World, session: Session) -> protocol.RunSummary:
    """A run that is over."""
    world.run(
        session, f"for i in 1 2 3; do echo out $i; echo err $i >&2; done; printf tail; cat {_many(world)}", out="x"
    )
    return logs.summary(session, "run0")


def _many(world: World) -> Path:
    path = world.folder / "many"
    path.write_bytes(MANY)
    return path


@pytest.fixture
def make_running(world: World, session: Session) -> Iterator[object]:
    """Starts a run that prints something and then goes on until the end of the test."""

    def make(output: str) -> protocol.RunSummary:
        seen = Recorder()
        request = RunRequest(f"printf '{output}'; printf end >&2; until [ -e {world.folder}/go ]; do sleep 0.01; done")
        watch = world.runs.start(session, dataclasses.replace(request, out="x", err="y"), "going", seen)
        size_bytes = 0
        while size_bytes < len(output.encode().decode("unicode_escape")) + len("end"):
            event = watch.events.get(timeout=DEADLINE_S)
            assert not isinstance(event, protocol.RunEnded | Lost)
            size_bytes += event.raw_bytes if isinstance(event, protocol.Output) else 0
        session.channel.unwatch(watch)
        return logs.summary(session, "going")

    yield make
    (world.folder / "go").touch()


def replayed(session: Session, run: protocol.RunSummary, policy: str = protocol.ALL, *streams: str) -> Recorder:
    recorder = Recorder()
    logs.replay(session, run, streams or protocol.STREAMS, policy, recorder.feed)
    assert session.channel._pending.watches == []
    return recorder


def test_runs_are_listed_oldest_first(world: World, session: Session) -> None:
    for number in range(3):
        world.run(session, f"# cell {number}\nexit {number}")
    found = [(run.run_id, run.state, run.command, run.exit_code) for run in logs.all_runs(session)]
    assert found == [(f"run{n}", "ended", f"# cell {n}", n) for n in range(3)]


def test_a_run_that_is_not_known(session: Session) -> None:
    with pytest.raises(UnknownRun, match="has no run nosuch"):
        logs.summary(session, "nosuch")


def test_of_an_ended_run_all_is_replayed(session: Session, ended: protocol.RunSummary) -> None:
    recorder = replayed(session, ended)
    assert recorder.text() == "out 1\nout 2\nout 3\ntail" + MANY.decode()
    assert recorder.text(protocol.STDERR) == "err 1\nerr 2\nerr 3\n"


def test_one_stream_of_it(session: Session, ended: protocol.RunSummary) -> None:
    recorder = replayed(session, ended, protocol.ALL, protocol.STDERR)
    assert {event.stream for event in recorder.events if isinstance(event, protocol.Output)} == {"stderr"}
    assert recorder.text(protocol.STDERR) == "err 1\nerr 2\nerr 3\n"


def test_for_the_display_a_flood_is_thinned_out(session: Session, ended: protocol.RunSummary) -> None:
    recorder = replayed(session, ended, protocol.SHOW)
    gaps = [event for event in recorder.events if isinstance(event, protocol.Gap)]
    last = [event for event in recorder.events if isinstance(event, protocol.Output)][-1]
    assert gaps
    assert last.offset + last.raw_bytes == ended.stdout_bytes


def test_a_run_without_output_is_nothing_to_replay(world: World, session: Session) -> None:
    world.run(session, "true")
    assert replayed(session, logs.summary(session, "run0")).events == []


@pytest.mark.parametrize("policy", [protocol.ALL, protocol.SHOW])
def test_of_a_running_run_what_is_there_is_replayed(session: Session, make_running, policy: str) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    run = make_running("so far")
    assert run.state == "running"
    recorder = replayed(session, run, policy)
    assert (recorder.text(), recorder.text(protocol.STDERR)) == ("so far", "end")


def test_a_running_run_in_the_middle_of_a_character(session: Session, make_running) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    recorder = replayed(session, make_running("a\\xe2\\x82"), protocol.SHOW)
    assert (recorder.text(), recorder.text(protocol.STDERR)) == ("a", "end")


def test_it_goes_on_over_the_next_connection(session: Session, ended: protocol.RunSummary) -> None:
    cuts = 0

    def cut(_: protocol.Message) -> None:
        nonlocal cuts
        if cuts < 2:
            cuts += 1
            sandbox_of(session).streams[-1].process.kill()

    recorder = Recorder(cut)
    logs.replay(session, ended, protocol.STREAMS, protocol.ALL, recorder.feed)
    assert recorder.text() == "out 1\nout 2\nout 3\ntail" + MANY.decode()


def test_a_container_that_ends_meanwhile(session: Session, make_running) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    run = dataclasses.replace(make_running("x"), stdout_bytes=1000)  # as though more were to come
    with pytest.raises(SessionLost):
        logs.replay(session, run, protocol.STREAMS, protocol.ALL, lambda _: sandbox_of(session).terminate())


@pytest.mark.parametrize("count", [1, 3, 20_000, LINES, LINES + 100])
def test_last_lines(session: Session, ended: protocol.RunSummary, count: int) -> None:
    whole = (b"out 1\nout 2\nout 3\ntail" + MANY).splitlines(keepends=True)
    assert last_lines(LiveLog(session, ended), protocol.STDOUT, count) == b"".join(whole[-count:])


def test_last_lines_of_a_stream_that_ends_without_a_newline(world: World, session: Session) -> None:
    world.run(session, "printf 'a\\nb\\nc'")
    assert last_lines(LiveLog(session, logs.summary(session, "run0")), protocol.STDOUT, 2) == b"b\nc"
    assert last_lines(LiveLog(session, logs.summary(session, "run0")), protocol.STDERR, 2) == b""


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, 5, b"out 1"), (6, 8, b"ou"), (18, 22, b"tail"), (5, 5, b""), (9, 3, b""), (10**12, -1, b"")],
)
def test_byte_ranges(session: Session, ended: protocol.RunSummary, start: int, end: int, expected: bytes) -> None:
    assert logs.byte_range(session, ended, protocol.STDOUT, start, end) == expected


def test_a_range_to_the_end(session: Session, ended: protocol.RunSummary) -> None:
    assert logs.byte_range(session, ended, protocol.STDOUT, 22, -1) == MANY


@pytest.mark.parametrize(("start", "end"), [(10, -1), (0, 700_000), (5, 25), (900_000, 10**9), (10**9, -1)])
def test_of_a_part_only_what_is_shown_travels(world: World, session: Session, start: int, end: int) -> None:
    world.run(session, f"for i in 1 2 3; do cat {_many(world)}; done; cat {_many(world)} >&2", out="x")
    recorder = Recorder()
    run = logs.summary(session, "run0")
    logs.replay(session, run, [protocol.STDOUT], protocol.SHOW, recorder.feed, (start, end))
    journal = (MANY * 3)[: None if end < 0 else end]
    at, travelled = start, 0
    for event in recorder.events:
        if isinstance(event, protocol.Gap):
            assert event.start == at
            at = event.end
        elif isinstance(event, protocol.Output):
            assert (event.stream, event.offset) == (protocol.STDOUT, at)
            assert payload_bytes(event) == journal[at : at + event.raw_bytes]
            at += event.raw_bytes
            travelled += event.raw_bytes
    assert at == max(len(journal), start)
    assert travelled <= 620_000
