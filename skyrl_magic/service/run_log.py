"""A run's log, wherever it is: in the container that lives, or on the volume. Both are read in the same ways."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Protocol

from skyrl_magic.core import protocol
from skyrl_magic.core.ports import Volume
from skyrl_magic.service import archive, logs
from skyrl_magic.service.session import Session

Sink = Callable[[protocol.Message], object]
Piece = tuple[str, int, int]

#: Of a log on the volume that is longer than a cell shows, so much of beginning and end is fetched. In bytes.
HEAD_BYTES = 700_000
TAIL_BYTES = 64_000
#: A log is cut at the end of a line where one comes within so many bytes.
_LINE_BYTES = 4096
#: A read from the end begins with so many bytes and grows until it has the lines.
_READ_BYTES = 64 * 1024
_CHUNK_BYTES = protocol.SEGMENT_BYTES
#: The bytes of a UTF-8 character after its first one.
_CONTINUATION = bytes(range(0x80, 0xC0))


class RunLog(Protocol):
    """What can be read of a run."""

    @property
    def run(self) -> protocol.RunSummary:
        """The run, with the sizes of what is there."""
        ...

    def replay(self, streams: Collection[str], policy: str, sink: Sink, part: tuple[int, int] = (0, -1)) -> None:
        """Hand what is there to ``sink``, as ``service.logs.replay`` does. Raises SessionError, BackendError."""
        ...

    def read(self, stream: str, start: int, end: int) -> bytes:
        """The bytes ``[start, end)`` of a stream, as far as they are there. Raises SessionError, BackendError."""
        ...


class LiveLog:
    """The log of a run whose container lives."""

    def __init__(self, session: Session, run: protocol.RunSummary) -> None:
        self.session = session
        self.run = run

    def replay(self, streams: Collection[str], policy: str, sink: Sink, part: tuple[int, int] = (0, -1)) -> None:
        """See :class:`RunLog`."""
        logs.replay(self.session, self.run, streams, policy, sink, part)

    def read(self, stream: str, start: int, end: int) -> bytes:
        """See :class:`RunLog`."""
        return logs.byte_range(self.session, self.run, stream, start, end)


class VolumeLog:
    """The log of a run as it is on the volume; to be closed."""

    def __init__(self, volume: Volume, run: archive.ArchivedRun) -> None:
        self.archived = run
        self.journal = archive.ArchivedJournal(volume, run)
        self.run = archive.as_there(run, self.journal)

    def close(self) -> None:
        """Leave what is being fetched."""
        self.journal.close()

    def replay(self, streams: Collection[str], policy: str, sink: Sink, part: tuple[int, int] = (0, -1)) -> None:
        """See :class:`RunLog`."""
        pieces = _within(self.journal.pieces(), streams, part)
        if policy == protocol.SHOW:
            head, gaps, tail = self._at_lines(*_head_and_tail(list(pieces)))
            for piece in _joined(head):
                self._send(piece, sink)
            for stream, start, end in gaps:
                sink(protocol.Gap(self.run.run_id, stream, start, end))
            pieces = iter(tail)
        for piece in _joined(pieces):
            self._send(piece, sink)

    def read(self, stream: str, start: int, end: int) -> bytes:
        """See :class:`RunLog`."""
        size = self.journal.sizes[stream]
        return self.journal.read(stream, start, size if end < 0 else end)

    def _at_lines(self, head: list[Piece], gaps: list[Piece], tail: list[Piece]) -> tuple[list[Piece], ...]:
        """The same with each gap from the end of a line to the beginning of one: no character is cut."""
        moved = []
        for stream, start, end in gaps:
            begin = self._line_end(stream, start) if any(p[0] == stream and p[2] == start for p in head) else start
            stop = max(begin, self._line_end(stream, end))
            head = [(*p[:2], begin) if p[0] == stream and p[2] == start else p for p in head]
            tail = [(stream, max(p[1], stop), p[2]) if p[0] == stream else p for p in tail]
            moved.append((stream, begin, stop))
        return head, moved, [p for p in tail if p[1] < p[2]]

    def _line_end(self, stream: str, at: int) -> int:
        data = self.journal.read(stream, at, at + _LINE_BYTES)
        newline = data.find(b"\n")
        if newline >= 0:
            return at + newline + 1
        return at + len(data) - len(data.lstrip(_CONTINUATION))

    def _send(self, piece: Piece, sink: Sink) -> None:
        stream, at, end = piece
        while at < end:
            # Not across segments: what comes after one is fetched while it is shown.
            stop = min(end, at - at % _CHUNK_BYTES + _CHUNK_BYTES)
            data = self.journal.read(stream, at, stop)
            sink(protocol.Output(self.run.run_id, stream, at, len(data), payload=data))
            at = stop


def last_lines(log: RunLog, stream: str, count: int) -> bytes:
    """The last ``count`` lines of a stream. Raises SessionError, BackendError."""
    size, length = size_of(log.run, stream), _READ_BYTES
    while True:
        data = log.read(stream, max(0, size - length), size)
        lines = data.splitlines(keepends=True)
        if length >= size or len(lines) > count:
            return b"".join(lines[-count:])
        length *= 4


def size_of(run: protocol.RunSummary, stream: str) -> int:
    """How many bytes a run's stream has."""
    return {
        protocol.STDOUT: run.stdout_bytes,
        protocol.STDERR: run.stderr_bytes,
        protocol.OUTPUTS: run.outputs_bytes,
    }[stream]


def _within(pieces: Iterable[Piece], streams: Collection[str], part: tuple[int, int]) -> Iterator[Piece]:
    """The pieces of some streams, cut to the bytes that are wanted; ``outputs`` are whole or none."""
    first, last = part
    for stream, start, end in pieces:
        if stream == protocol.OUTPUTS and stream in streams:
            yield stream, start, end
        elif stream in streams:
            begin, stop = max(start, first), end if last < 0 else min(end, last)
            if begin < stop:
                yield stream, begin, stop


def _joined(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The pieces with neighbours of one stream as one."""
    current: Piece | None = None
    for stream, start, end in pieces:
        if current is not None and (current[0], current[2]) == (stream, start):
            current = (stream, current[1], end)
            continue
        if current is not None:
            yield current
        current = (stream, start, end)
    if current is not None:
        yield current


def _head_and_tail(pieces: list[Piece]) -> tuple[list[Piece], list[Piece], list[Piece]]:
    """The beginning of a long log's text, a gap of each stream, and the end; outputs are whole."""
    text_bytes = sum(end - start for stream, start, end in pieces if stream != protocol.OUTPUTS)
    if text_bytes <= HEAD_BYTES + TAIL_BYTES:
        return pieces, [], []
    head_left, before_tail = HEAD_BYTES, text_bytes - TAIL_BYTES
    kept: list[Piece] = []
    left_out: dict[str, tuple[int, int]] = {}
    tail: list[Piece] = []
    passed = 0
    for stream, start, end in pieces:
        if stream == protocol.OUTPUTS:
            (tail if left_out else kept).append((stream, start, end))
            continue
        head = min(end, start + head_left)
        begin = max(head, min(end, start + before_tail - passed))
        head_left -= head - start
        passed += end - start
        if head > start:
            kept.append((stream, start, head))
        if begin > head:
            left_out[stream] = (left_out.get(stream, (head,))[0], begin)
        if end > begin:
            tail.append((stream, begin, end))
    return kept, [(stream, start, end) for stream, (start, end) in left_out.items()], tail
