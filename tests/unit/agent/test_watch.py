"""Watches over the channel: floods, whole streams, cut channels, several clients."""

from __future__ import annotations

import hashlib
import itertools

from skyrl_magic.agent.show import HEAD_BYTES, TAIL_BYTES
from skyrl_magic.core import protocol
from tests.unit.agent.harness import Attached, Gate, Session, content, partition

#: About 50 MB of numbered lines on stdout; stderr tells of the middle.
FLOOD = "seq 1 3200000; echo half >&2; seq 3200001 6400000"


def flood() -> bytes:
    return "".join(f"{n}\n" for n in range(1, 6_400_001)).encode()


def test_a_flood_is_shown_in_parts_and_kept_whole(channel: Attached) -> None:
    expected = flood()
    ended = channel.run(FLOOD)
    assert ended.stdout_bytes == len(expected)
    parts = list(partition(channel.frames, protocol.STDOUT))
    assert (parts[0][0], parts[-1][1]) == (0, len(expected))
    for start, end, data in parts:
        assert data in (b"", expected[start:end])
    shown = sum(len(data) for _, _, data in parts)
    assert HEAD_BYTES - TAIL_BYTES < shown < HEAD_BYTES + 2_000_000
    # What follows a gap begins a line, and the end is there.
    for (_, _, before), (start, _, data) in itertools.pairwise(parts):
        if data and not before:
            assert expected[start - 1 : start] == b"\n"
    assert parts[-1][2].endswith(b"6400000\n")
    assert channel.text(protocol.STDERR) == b"half\n"
    journal = channel.journal()
    assert hashlib.sha256(journal).digest() == hashlib.sha256(expected).digest()


def test_all_sends_every_byte_compressed(channel: Attached) -> None:
    channel.start(FLOOD)
    channel.send(protocol.WatchRun("run-1", stdout=protocol.ALL))
    channel.ended()
    assert channel.text() == flood()
    assert not [frame for frame in channel.frames if isinstance(frame, protocol.Gap)]
    travelled = sum(len(frame.payload) for frame in channel.outputs())
    assert travelled < len(channel.text()) / 2


def test_none_sends_nothing_but_the_end(channel: Attached) -> None:
    channel.start("echo out; echo err >&2")
    channel.send(protocol.WatchRun("run-1", stdout=protocol.NONE, stderr=protocol.SHOW))
    channel.ended()
    assert {frame.stream for frame in channel.outputs()} == {protocol.STDERR}


def test_both_streams_whole_come_in_order_of_arrival(channel: Attached) -> None:
    channel.start("for i in $(seq 300); do echo out$i; echo err$i >&2; done")
    channel.send(protocol.WatchRun("run-1", stdout=protocol.ALL, stderr=protocol.ALL))
    channel.ended()
    for stream, word in ((protocol.STDOUT, "out"), (protocol.STDERR, "err")):
        assert channel.text(stream).decode() == "".join(f"{word}{n}\n" for n in range(1, 301))
        assert [end for _, end, _ in partition(channel.frames, stream)][-1] == len(channel.text(stream))


def test_a_run_that_is_over_is_replayed_by_the_same_rules(channel: Attached) -> None:
    channel.run(FLOOD)
    before = len(channel.frames)
    channel.send(protocol.WatchRun("run-1", stderr=protocol.NONE))
    channel.wait_for(protocol.RunEnded, lambda frame: frame in channel.frames[before:])
    expected = flood()
    parts = list(partition(channel.frames[before:], protocol.STDOUT))
    assert (parts[0][0], parts[-1][1]) == (0, len(expected))
    assert len(parts[0][2]) + sum(len(data) for _, _, data in parts[1:-2]) <= HEAD_BYTES
    assert [bool(data) for _, _, data in parts[-2:]] == [False, True]
    assert TAIL_BYTES - 100 < len(parts[-1][2]) <= TAIL_BYTES
    assert parts[-1][2] == expected[parts[-1][0] :]


def test_what_was_shown_already_counts_after_a_cut(channel: Attached) -> None:
    channel.run("seq 100000")
    before = len(channel.frames)
    channel.send(protocol.WatchRun("run-1", stdout_offset=1000, shown_bytes=HEAD_BYTES))
    channel.wait_for(protocol.RunEnded, lambda frame: frame in channel.frames[before:])
    parts = list(partition(channel.frames[before:], protocol.STDOUT))
    assert [(parts[0][0], parts[0][2])] == [(1000, b"")]
    assert len(parts) == 2
    assert parts[1][2].endswith(b"\n100000\n")


def test_a_killed_channel_is_continued_at_its_byte(session: Session, gate: Gate) -> None:
    first = session.attach()
    first.start(f"for i in $(seq 2000); do echo $i; done; echo err >&2; read _ <{gate}; seq 2001 4000; exit 5")
    first.send(protocol.WatchRun("run-1"))
    first.wait_for_output(b"\n1000\n")
    first.kill()
    shown = first.text()
    second = session.attach()
    second.send(
        protocol.WatchRun(
            "run-1", len(shown), len(first.text(protocol.STDERR)), shown_bytes=len(shown), stdout=protocol.SHOW
        )
    )
    gate.say()
    assert second.ended().exit_code == 5
    assert (shown + second.text()).decode() == "".join(f"{n}\n" for n in range(1, 4001))
    assert first.text(protocol.STDERR) + second.text(protocol.STDERR) == b"err\n"


def test_two_clients_see_the_same_run(session: Session) -> None:
    one, two = session.attach(), session.attach()
    one.start("for i in $(seq 50); do echo $i; sleep 0.01; done")
    for channel in (one, two):
        channel.send(protocol.WatchRun("run-1"))
    for channel in (one, two):
        assert channel.ended().exit_code == 0
        assert channel.text().decode() == "".join(f"{n}\n" for n in range(1, 51))
    status = one.ask(protocol.GetStatus(), protocol.Status)
    assert isinstance(status, protocol.Status)
    assert status.clients == 2


def test_unwatch_ends_the_watch_and_not_the_run(channel: Attached, gate: Gate) -> None:
    channel.start(f"echo one; read _ <{gate}; echo two")
    channel.send(protocol.WatchRun("run-1"))
    channel.wait_for_output(b"one\n")
    channel.send(protocol.UnwatchRun("run-1"))
    channel.ask(protocol.GetStatus(), protocol.Status)  # everything before it is carried out
    gate.say()
    channel.run("sleep 0.1", "run-2")
    assert channel.text() == b"one\n"
    assert channel.journal() == b"one\ntwo\n"


def test_a_second_watch_replaces_the_first(channel: Attached, gate: Gate) -> None:
    channel.start(f"printf 0123456789; read _ <{gate}; printf ab")
    channel.send(protocol.WatchRun("run-1"))
    channel.wait_for_output(b"0123456789")
    channel.send(protocol.WatchRun("run-1", stdout_offset=5))
    channel.wait_for_output(b"012345678956789")
    gate.say()
    channel.ended()
    assert channel.text() == b"012345678956789ab"
    assert len([frame for frame in channel.frames if isinstance(frame, protocol.RunEnded)]) == 1


def test_a_progress_bar_comes_complete_while_it_is_small(channel: Attached) -> None:
    channel.run(r"for i in $(seq 100); do printf '\r%d%%' $i; done; echo")
    assert channel.text().endswith(b"\r100%\n")
    assert sum(len(content(frame)) for frame in channel.outputs()) == channel.ended().stdout_bytes
