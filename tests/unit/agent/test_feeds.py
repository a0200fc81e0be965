"""What travels of a journal, without processes: any growth, any room, any clock."""

from __future__ import annotations

import itertools
import random
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skyrl_magic.agent import feed, redraw, show, watch
from skyrl_magic.agent.journal import Cursor, JournalWriter
from skyrl_magic.core import protocol
from tests.unit.agent.harness import content, partition
from tests.unit.core.terminal_model import Terminal

#: A step of a run: a write to a stream (how often a piece is repeated), the client taking all, time that passes.
WRITE = st.tuples(
    st.just("write"),
    st.sampled_from([0, 1]),
    st.one_of(st.binary(max_size=40), st.sampled_from([b"line\n", "grün 雪\n".encode(), b"\r50%", b"x", b"\xf0\x9f"])),
    st.sampled_from([1, 3, 700, 30_000]),
)
STEP = st.one_of(WRITE, st.just(("take",)), st.tuples(st.just("wait"), st.sampled_from([0.0, 0.005, 0.05, 1.0])))


class Client:
    """Takes frames; ``queued_bytes`` grows until it takes them."""

    def __init__(self) -> None:
        self.frames: list[protocol.Message] = []
        self.queued_bytes = 0

    def send(self, message: protocol.Message) -> None:
        self.frames.append(message)
        self.queued_bytes += len(protocol.encode(message))


def drive(steps: list[tuple[object, ...]], request: protocol.WatchRun) -> tuple[Client, list[bytes]]:
    """Carry out the steps and the end of the run; returns what travelled and what the run wrote."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        journal = JournalWriter(folder, protocol.JOURNAL_STREAMS)
        client = Client()
        live = watch.Watch(request, folder, client)
        now, written = 100.0, [b"", b"", b""]
        for kind, *rest in steps:
            if kind == "write":
                stream, piece, times = rest
                assert isinstance(stream, int)
                assert isinstance(piece, bytes)
                assert isinstance(times, int)
                journal.write(stream, memoryview(piece * times))
                written[stream] += piece * times
            elif kind == "take":
                client.queued_bytes = 0
            else:
                assert isinstance(rest[0], float)
                now += rest[0]
            live.pump(now)
        journal.close()
        live.end(protocol.RunEnded("run-1"))
        for _ in range(10_000):
            if live.over:
                break
            live.pump(now)
            client.queued_bytes = 0
        live.close()
    assert isinstance(client.frames[-1], protocol.RunEnded)
    return client, written


def whole(data: bytes, parts: list[tuple[int, int, bytes]], start: int = 0) -> None:
    """Assert that the parts cover ``data`` from ``start`` on and carry its bytes."""
    if start >= len(data):
        assert not parts
        return
    assert (parts[0][0], parts[-1][1]) == (start, len(data))
    for begin, end, shown in parts:
        assert shown in (b"", data[begin:end])


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=25), st.integers(0, 700_000))
@example([("write", 0, b"line\n", 30_000)] * 8 + [("wait", 1.0)], 0)
@example([("write", 0, b"x", 30_000), ("write", 1, b"y", 30_000), ("wait", 1.0)] * 6, show.HEAD_BYTES)
def test_shown_streams_are_partitioned_into_output_and_gaps(steps: list[tuple[object, ...]], shown: int) -> None:
    client, written = drive(steps, protocol.WatchRun("run-1", shown_bytes=shown))
    total = 0
    for stream, data in zip(protocol.STREAMS, written[:2], strict=True):
        parts = list(partition(client.frames, stream))
        whole(data, parts)
        total += sum(len(text) for _, _, text in parts)
        gaps = [f for f in client.frames if isinstance(f, protocol.Gap) and f.stream == stream]
        if data and not (gaps and gaps[-1].redrawn):
            # The very end is never left out, from a line's or a character's start at most a tail before it.
            assert parts[-1][2]
    waits = sum(1 for step in steps if step[0] == "wait")
    assert total <= max(show.HEAD_BYTES - shown, 0) + 3 * show.TAIL_BYTES * (waits + 2)


#: What programs write that redraw a line, and lines between.
DRAWN = st.sampled_from(
    [b"\r%5d/9999", b"\r\x1b[32m%d\x1b[0m%%", b"\n\rinner %d\x1b[A", b"%d\b\b\b", b"\r\x1b[K%d", b"%d\r", b"%d\n"]
)
DRAW = st.tuples(st.just("draw"), st.sampled_from([0, 1]), DRAWN, st.sampled_from([1, 3, 500]))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(DRAW, st.just(("take",)), st.tuples(st.just("wait"), st.sampled_from([0.005, 1.0]))), max_size=12
    )
)
def test_what_is_drawn_over_costs_no_budget_and_is_not_missed(steps: list[tuple[object, ...]]) -> None:
    writes = [("write", step[1], drawn(step), 1) if step[0] == "draw" else step for step in steps]
    client, written = drive(writes, protocol.WatchRun("run-1"))
    for stream, data in zip(protocol.STREAMS, written[:2], strict=True):
        whole(data, list(partition(client.frames, stream)))
        gaps = [frame for frame in client.frames if isinstance(frame, protocol.Gap) and frame.stream == stream]
        assert all(gap.redrawn for gap in gaps)
        outputs = [frame for frame in client.frames if isinstance(frame, protocol.Output) and frame.stream == stream]
        assert Terminal(b"".join(map(content, outputs)).decode()).lines == Terminal(data.decode()).lines


def drawn(step: tuple[object, ...]) -> bytes:
    _, _, piece, times = step
    assert isinstance(piece, bytes)
    assert isinstance(times, int)
    return b"".join(piece % number for number in range(times))


@pytest.mark.parametrize("size_bytes", [100, 1000])
@pytest.mark.parametrize("pause_s", [0.001, 0.01, 0.1])
def test_a_bar_of_any_length_uses_up_no_budget(size_bytes: int, pause_s: float) -> None:
    steps: list[tuple[object, ...]] = []
    total = 1_500_000 // size_bytes
    for number in range(total):
        steps += [("write", 0, b"\r%7d " % number + b"#" * (size_bytes - 9), 1), ("take",), ("wait", pause_s)]
    client, written = drive([*steps, ("write", 0, b"\ndone\n", 1)], protocol.WatchRun("run-1"))
    outputs = [frame for frame in client.frames if isinstance(frame, protocol.Output)]
    whole(written[0], list(partition(client.frames, protocol.STDOUT)))
    assert all(frame.redrawn for frame in client.frames if isinstance(frame, protocol.Gap))
    assert (
        Terminal(b"".join(map(content, outputs)).decode()).lines
        == Terminal(written[0][-2 * size_bytes - 6 :].decode()).lines
    )
    assert outputs[-1].shown_bytes < 2 * size_bytes + 10
    # ... and it travels no faster than a tail does.
    assert sum(frame.raw_bytes for frame in outputs) <= 3 * show.TAIL_BYTES * (1 + total * pause_s / show.TICK_S)


def test_a_flood_of_redraws_travels_as_its_last_state() -> None:
    bar = b"".join(b"\r%7d" % number for number in range(1_000_000))
    client, _ = drive([("write", 0, bar + b"\ndone\n", 1)], protocol.WatchRun("run-1"))
    outputs = [frame for frame in client.frames if isinstance(frame, protocol.Output)]
    assert b"".join(map(content, outputs))[-14:] == b"\r 999999\ndone\n"
    assert sum(frame.raw_bytes for frame in outputs) < 1000
    assert all(frame.redrawn for frame in client.frames if isinstance(frame, protocol.Gap))


def test_two_streams_that_redraw_in_turns_travel_as_their_last_states() -> None:
    with tempfile.TemporaryDirectory() as name:
        journal = JournalWriter(Path(name))
        for number in range(40_000):
            journal.write(number % 2, memoryview(b"\r%6d" % number))
        journal.close()
        client = Client()
        live = watch.Watch(protocol.WatchRun("run-1"), Path(name), client)
        live.end(protocol.RunEnded("run-1"))
        now = 0.0
        while not live.over:
            client.queued_bytes = 0
            now += 0.02
            live.pump(now)
        live.close()
    assert len(client.frames) < 1000
    for name, last in zip(protocol.STREAMS, (b"\r 39998", b"\r 39999"), strict=True):
        outputs = [frame for frame in client.frames if isinstance(frame, protocol.Output) and frame.stream == name]
        assert content(outputs[-1]) == last


@settings(max_examples=80, deadline=None)
@given(st.lists(STEP, max_size=20), st.integers(0, 50), st.integers(0, 50))
def test_whole_streams_lose_nothing_from_any_offset(steps: list[tuple[object, ...]], out: int, err: int) -> None:
    request = protocol.WatchRun("run-1", out, err, protocol.ALL, protocol.ALL)
    client, written = drive(steps, request)
    for stream, data, start in zip(protocol.STREAMS, written[:2], (out, err), strict=True):
        whole(data, list(partition(client.frames, stream)), start)
        outputs = [f for f in client.frames if isinstance(f, protocol.Output) and f.stream == stream]
        assert b"".join(map(content, outputs)) == data[start:]


@settings(max_examples=60, deadline=None)
@given(st.lists(WRITE, max_size=20))
def test_order_of_arrival_is_kept(steps: list[tuple[object, ...]]) -> None:
    client, _ = drive(list(steps), protocol.WatchRun("run-1", 0, 0, protocol.ALL, protocol.ALL))
    expected = b"".join(step[2] * step[3] for step in steps if isinstance(step[2], bytes) and isinstance(step[3], int))
    outputs = [frame for frame in client.frames if isinstance(frame, protocol.Output)]
    assert b"".join(map(content, outputs)) == expected


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30))
def test_a_character_is_incomplete_until_its_last_byte(text: str) -> None:
    data = text.encode()
    assert redraw.incomplete_suffix(data) == 0
    for cut in range(len(data)):
        held = redraw.incomplete_suffix(data[:cut])
        assert data[: cut - held].decode() == data[:cut].decode(errors="ignore")


def test_no_gap_begins_or_ends_inside_a_character() -> None:
    steps: list[tuple[object, ...]] = []
    text = ("雪" * 100_000).encode()
    for start in range(0, len(text), 10_001):  # every write ends at another place in a character
        steps += [("write", 0, text[start : start + 10_001], 1), ("take",), ("wait", 0.05)]
    client, written = drive(steps, protocol.WatchRun("run-1", shown_bytes=show.HEAD_BYTES - 10_000))
    parts = list(partition(client.frames, protocol.STDOUT))
    whole(written[0], parts)
    assert any(not data for _, _, data in parts)
    for start, end, data in parts:
        assert (start % 3, end % 3) == (0, 0)
        data.decode()


def test_a_redrawn_line_is_shown_at_its_last_state() -> None:
    bar = b"".join(b"\r%6d/9999 steps" % n for n in range(10_000))
    client, _ = drive([("write", 0, bar, 1)], protocol.WatchRun("run-1", shown_bytes=show.HEAD_BYTES))
    [gap, last] = list(partition(client.frames, protocol.STDOUT))
    assert gap[2] == b""
    assert last[2] == b"\r  9999/9999 steps"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\nend\n"])
def test_a_redrawn_line_that_ended_is_shown_at_its_last_state(end: bytes) -> None:
    bar = b"".join(b"%6d/9999 steps\r" % n for n in range(10_000))
    client, _ = drive([("write", 0, bar + end, 1)], protocol.WatchRun("run-1", shown_bytes=show.HEAD_BYTES))
    [_, last] = list(partition(client.frames, protocol.STDOUT))
    assert last[2] == b"\r  9999/9999 steps\r" + end


def test_after_the_head_a_quiet_run_loses_nothing() -> None:
    steps = [("write", 0, b"line\n", 700), ("wait", 1.0), ("take",)] * 20
    client, written = drive(list(steps), protocol.WatchRun("run-1", shown_bytes=show.HEAD_BYTES))
    assert not [frame for frame in client.frames if isinstance(frame, protocol.Gap)]
    assert len(written[0]) == 70_000


def test_a_client_that_takes_nothing_bounds_what_is_read() -> None:
    with tempfile.TemporaryDirectory() as name:
        journal = JournalWriter(Path(name))
        client = Client()
        live = watch.Watch(protocol.WatchRun("run-1", stdout=protocol.ALL), Path(name), client)
        for now in range(5):
            journal.write(0, memoryview(random.Random(now).randbytes(700_000)))  # noqa: S311  (no zlib shrinks it)
            live.pump(float(now))
        assert live.blocked
        assert client.queued_bytes < feed.ROOM_BYTES + feed.WHOLE_CHUNK_BYTES + 1000
        live.close()
        journal.close()


def test_a_journal_is_read_while_it_grows() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cursor = Cursor(folder, dict.fromkeys(protocol.STREAMS, 0))
        assert cursor.new_segments(ended=False) == []
        journal = JournalWriter(folder)
        seen = []
        for number in itertools.chain([0] * 5, [1], [0] * 3, [1, 0] * 4):
            journal.write(number, memoryview(b"ab"))
            seen += [(s, cursor.read(s, a, b)) for s, a, b in cursor.new_segments(ended=False)]
        assert seen == [(protocol.STREAMS[n], b"ab") for n in [0] * 5 + [1] + [0] * 3 + [1, 0] * 4]
        # One record for each change of the stream, whatever the number of writes.
        assert (folder / "index").stat().st_size == 16 * 11
        cursor.close()
        journal.close()


def test_a_journal_of_many_short_pieces_is_read_in_little_memory() -> None:
    pieces = 150_000  # more than two blocks of the index
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        journal = JournalWriter(folder)
        for number in range(pieces):
            journal.write(number % 2, memoryview(b"%07d\n" % number))
        journal.close()
        client, whole_client = Client(), Client()
        shown = watch.Watch(protocol.WatchRun("run-1", shown_bytes=show.HEAD_BYTES), folder, client)
        every = watch.Watch(protocol.WatchRun("run-1", stdout="all", stderr="all"), folder, whole_client)
        for live in (shown, every):
            live.end(protocol.RunEnded("run-1"))
        tracemalloc.start()
        shown.pump(0.0)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        now = 0.0
        while not every.over:
            whole_client.queued_bytes = 0
            now += 1.0
            every.pump(now)
        for live in (shown, every):
            live.close()
    assert shown.over
    assert peak_bytes < 25_000_000
    for stream, last in zip(protocol.STREAMS, (pieces - 2, pieces - 1), strict=True):
        parts = list(partition(client.frames, stream))
        assert (parts[0][2], parts[0][0], parts[-1][1]) == (b"", 0, pieces * 4)
        assert parts[-1][2] == b"%07d\n" % last
    outputs = [frame for frame in whole_client.frames if isinstance(frame, protocol.Output)]
    assert b"".join(map(content, outputs)) == b"".join(b"%07d\n" % number for number in range(pieces))


def test_at_the_end_bytes_without_a_record_are_taken_too() -> None:
    # What a shim that was killed wrote last.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        journal = JournalWriter(folder)
        journal.write(0, memoryview(b"recorded"))
        journal.close()
        with (folder / protocol.STDOUT).open("ab") as file:
            file.write(b" and not")
        cursor = Cursor(folder, dict.fromkeys(protocol.STREAMS, 0))
        assert cursor.new_segments(ended=False) == [(protocol.STDOUT, 0, 8)]
        assert cursor.new_segments(ended=True) == [(protocol.STDOUT, 8, 16)]
        cursor.close()


# --- a Python run's messages ------------------------------------------------------------------------------------------

#: A write to ``outputs``; what nobody can compress fills the client's room.
MESSAGES = st.tuples(
    st.just("write"),
    st.just(2),
    st.sampled_from([b"<message>", random.Random(5).randbytes(1000)]),  # noqa: S311
    st.sampled_from([1, 3, 700]),
)


def text_of(step: tuple[object, ...]) -> bytes:
    """What a step writes."""
    if step[0] != "write":
        return b""
    _, _, piece, times = step
    assert isinstance(piece, bytes)
    assert isinstance(times, int)
    return piece * times


def in_order(client: Client, *streams: str) -> bytes:
    """What travelled of the streams, in the order in which it did; of all of them where none is named."""
    outputs = [frame for frame in client.frames if isinstance(frame, protocol.Output)]
    return b"".join(content(frame) for frame in outputs if not streams or frame.stream in streams)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(STEP, MESSAGES), max_size=25), st.sampled_from([0, show.HEAD_BYTES]), st.integers(0, 30))
def test_messages_travel_whole_within_the_budget_and_after_it(
    steps: list[tuple[object, ...]], shown: int, offset: int
) -> None:
    request = protocol.WatchRun("run-1", shown_bytes=shown, outputs=protocol.SHOW, outputs_offset=offset)
    client, written = drive(steps, request)
    whole(written[2], list(partition(client.frames, protocol.OUTPUTS)), offset)
    assert in_order(client, protocol.OUTPUTS) == written[2][offset:]
    for stream, data in zip(protocol.STREAMS, written[:2], strict=True):
        whole(data, list(partition(client.frames, stream)))


#: Writes of a size of which a tick loses nothing.
SHORT = st.tuples(st.just("write"), st.sampled_from([0, 1, 2]), st.sampled_from([b"line\n", b"a", b"<m>"]), st.just(3))
QUIET = st.lists(st.one_of(SHORT, st.just(("wait", 0.05)), st.just(("wait", 1.0)), st.just(("take",))), max_size=30)


@settings(max_examples=100, deadline=None)
@given(
    QUIET, st.sampled_from([0, show.HEAD_BYTES - 20, show.HEAD_BYTES]), st.sampled_from([protocol.SHOW, protocol.ALL])
)
def test_messages_keep_their_place_among_the_text(steps: list[tuple[object, ...]], shown: int, how: str) -> None:
    request = protocol.WatchRun("run-1", stdout=how, stderr=how, shown_bytes=shown, outputs=how)
    client, _ = drive(steps, request)
    assert in_order(client) == b"".join(map(text_of, steps))


@pytest.mark.parametrize("shown", [0, show.HEAD_BYTES], ids=["head", "tail"])
def test_a_client_that_takes_nothing_for_a_while_gets_the_messages_in_order(shown: int) -> None:
    message = random.Random(7).randbytes(400_000)  # noqa: S311  (no zlib shrinks it)
    steps: list[tuple[object, ...]] = []
    for number in range(8):
        steps += [("write", 0, b"line %d\n" % number, 1), ("write", 2, message + bytes([number]), 1)]
    steps += [("wait", 1.0), ("wait", 1.0), ("take",)]
    request = protocol.WatchRun("run-1", shown_bytes=shown, outputs=protocol.SHOW)
    client, written = drive(steps * 2, request)
    whole(written[2], list(partition(client.frames, protocol.OUTPUTS)))
    assert in_order(client, protocol.OUTPUTS) == written[2]
    assert in_order(client) == b"".join(map(text_of, steps * 2))


def test_messages_of_a_client_that_takes_nothing_stay_on_disk() -> None:
    with tempfile.TemporaryDirectory() as name:
        journal = JournalWriter(Path(name), protocol.JOURNAL_STREAMS)
        client = Client()
        request = protocol.WatchRun("run-1", shown_bytes=show.HEAD_BYTES, outputs=protocol.SHOW)
        live = watch.Watch(request, Path(name), client)
        for now in range(5):
            journal.write(2, memoryview(random.Random(now).randbytes(700_000)))  # noqa: S311
            journal.write(0, memoryview(b"line\n"))
            live.pump(float(now))
        assert live.blocked
        assert client.queued_bytes < feed.ROOM_BYTES + protocol.CHUNK_BYTES + 10_000
        live.close()
        journal.close()


def test_messages_that_nobody_wants_do_not_travel() -> None:
    client, _ = drive([("write", 2, b"<m>", 3), ("write", 0, b"line\n", 1)], protocol.WatchRun("run-1"))
    assert in_order(client) == b"line\n"
