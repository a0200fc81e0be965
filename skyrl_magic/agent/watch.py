"""What of a run's output travels to a client, and when.

A stream watched as ``all`` travels whole. Streams watched as ``show`` travel whole up to a budget for each run
(:data:`HEAD_BYTES`); what comes after it is sent in ticks, of each tick the newest :data:`TAIL_BYTES` of a stream, with
a ``Gap`` for what was skipped, so at most 80 KB/s a stream. A run that prints less than that loses nothing however
long it lives, and the end of the output is always sent. Every byte of a shown stream is in exactly one ``Output`` or
``Gap``, in order. A Python run's ``outputs`` are messages: they travel whole in either case, in their place among the
text. Nothing here waits: the journal keeps what a slow client has not taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, List, Optional, Protocol

from skyrl_magic.agent.journal import Cursor, Segment
from skyrl_magic.core import protocol

#: What a run may show in all before ticks begin, in bytes. A cell shows about 1 MB (Jupyter lags beyond it).
HEAD_BYTES = 600_000
#: Length of a tick, in seconds, and what of each stream travels in one, in bytes.
TICK_S = 0.2
TAIL_BYTES = 16 * 1024
#: Where the two streams alternate quickly a tick sends at most so many pieces.
TAIL_PIECES = 200
#: Least time between two sends of one watch, in seconds; the first goes at once.
COALESCE_S = 0.02
#: Nothing is read from a journal while more than this waits for the client, in bytes.
ROOM_BYTES = 256 * 1024
#: Pieces of a journal that a feed holds before it reads on.
_ENOUGH_PIECES = 1000
#: What travels whole is cut into chunks of so many bytes: large ones cost Python less and compress better.
WHOLE_CHUNK_BYTES = 1024 * 1024
#: Chunks that one watch sends before others get their turn.
_CHUNKS_PER_TURN = 2
#: UTF-8: the least first byte of a character of so many bytes, and what a byte inside one looks like.
_FIRST_BYTES = ((0xF0, 4), (0xE0, 3), (0xC0, 2))
_CONTINUATION_MASK, _CONTINUATION = 0xC0, 0x80


class Sink(Protocol):
    """Where frames go; ``queued_bytes`` is what the client has not taken yet."""

    queued_bytes: int

    def send(self, message: protocol.Message) -> None:
        """Queue a frame."""


def has_room(sink: Sink) -> bool:
    """Whether the client takes more."""
    return sink.queued_bytes < ROOM_BYTES


def incomplete_suffix(data: bytes) -> int:
    """How many bytes at the end of ``data`` begin a UTF-8 character that is not complete yet (0 to 3)."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if not _continues(byte):
            length = next((length for first, length in _FIRST_BYTES if byte >= first), 1)
            return back if length > back else 0
    return 0


def _continues(byte: int) -> bool:
    return byte & _CONTINUATION_MASK == _CONTINUATION


def tail_start(window: bytes) -> int:
    """Where to begin showing ``window`` after a gap.

    In a line that is redrawn with carriage returns at its last state; else at a line's start where there is one, or at
    a character's start.
    """
    newline = window.find(b"\n", 0, max(len(window) - 1, 0))
    first_line = window[:newline] if newline >= 0 else window
    redraw = first_line.rstrip(b"\r\n").rfind(b"\r")
    if redraw >= 0:
        return redraw
    if newline >= 0:
        return newline + 1
    start = 0
    while start < min(3, len(window)) and _continues(window[start]):
        start += 1
    return start


def head_end(data: bytes) -> int:
    """Where to stop when the budget ends inside ``data``: after its last line, else before an incomplete character."""
    newline = data.rfind(b"\n")
    return newline + 1 if newline >= 0 else len(data) - incomplete_suffix(data)


class Feed:
    """Streams of one run on their way to one client.

    After :meth:`pump`, ``wake_at`` is when to pump again (None: when the journal grows) and ``blocked`` says that the
    client must take something first.
    """

    def __init__(self, run_id: str, cursor: Cursor, sink: Sink) -> None:
        self._run_id = run_id
        self._cursor = cursor
        self._sink = sink
        self._pending: List[Segment] = []
        self._not_before = 0.0
        self.wake_at: Optional[float] = None
        self.blocked = False

    @property
    def drained(self) -> bool:
        """Whether everything that is there is sent."""
        return not self._pending and not self._cursor.more

    def pump(self, now: float, *, ended: bool) -> None:
        """Send what may travel now; ``now`` is monotonic, in seconds. ``ended`` says that the journal is complete."""
        self.wake_at, self.blocked = None, False
        if now < self._not_before and not ended:
            self.wake_at = self._not_before
            return
        if len(self._pending) < _ENOUGH_PIECES:
            self._fetch(ended=ended)
        if self._pending:
            self._send(now, ended=ended)
        if self._cursor.more and self.wake_at is None and not self.blocked:
            self.wake_at = now

    def _fetch(self, *, ended: bool) -> None:
        fresh = self._cursor.new_segments(ended=ended)
        if fresh and self._pending and self._pending[-1].stream == fresh[0].stream:
            self._pending[-1] = Segment(fresh[0].stream, self._pending[-1].start, fresh.pop(0).end)
        self._pending += fresh

    def close(self) -> None:
        """Close the journal's files."""
        self._cursor.close()

    def _send(self, now: float, *, ended: bool) -> None:
        raise NotImplementedError

    def _room(self) -> bool:
        self.blocked = not has_room(self._sink)
        return not self.blocked

    def _output(self, stream: str, offset: int, data: bytes) -> None:
        if data:
            compressed, payload = protocol.pack_payload(data)
            self._sink.send(protocol.Output(self._run_id, stream, offset, len(data), compressed, payload))


class AllFeed(Feed):
    """Every byte, in order."""

    def _send(self, now: float, *, ended: bool) -> None:  # noqa: ARG002  (everything travels, at the end too)
        for _ in range(_CHUNKS_PER_TURN):
            if not self._pending:
                self._not_before = now + COALESCE_S
                return
            if not self._room():
                return
            stream, start, end = self._pending[0]
            data = self._cursor.read(stream, start, min(end, start + WHOLE_CHUNK_BYTES))
            self._output(stream, start, data)
            if start + len(data) >= end or not data:
                self._pending.pop(0)
            else:
                self._pending[0] = Segment(stream, start + len(data), end)
        self.wake_at = now


class ShowFeed(Feed):
    """What a cell can show. ``shown_bytes`` is what the client has shown of the budget already."""

    def __init__(self, run_id: str, cursor: Cursor, sink: Sink, shown_bytes: int) -> None:
        super().__init__(run_id, cursor, sink)
        self._budget = max(HEAD_BYTES - shown_bytes, 0)

    def _send(self, now: float, *, ended: bool) -> None:
        if self._budget:
            self._not_before = now + COALESCE_S
            if not self._send_head(ended=ended):
                return
            self._not_before = now + TICK_S
            self.wake_at = self._not_before
            if not ended:
                return
        if self._room():
            self._not_before = now + TICK_S
            self.wake_at = None
            self._send_tail(ended=ended)

    def _send_head(self, *, ended: bool) -> bool:
        """Send pending bytes while the budget lasts; whether it is spent with bytes left."""
        kept: List[Segment] = []
        newest = {segment.stream: segment.end for segment in self._pending}
        while self._pending and self._budget:
            if not self._room():
                break
            stream, start, end = self._pending.pop(0)
            text = stream != protocol.OUTPUTS
            stop = min(end, start + min(protocol.CHUNK_BYTES, self._budget if text else protocol.CHUNK_BYTES))
            data = self._cursor.read(stream, start, stop)
            self._budget -= len(data) * text
            if stop < end:
                if not self._budget:
                    data = data[: head_end(data)]
                self._pending.insert(0, Segment(stream, start + len(data), end))
            elif text and end == newest[stream] and not ended:
                data = _hold_back(stream, start, data, kept)
            self._output(stream, start, data)
        self._pending = kept + self._pending
        return not self._budget and not self.blocked and self._pending != kept

    def _send_tail(self, *, ended: bool) -> None:
        self._skip_to_tail()
        while self._cursor.more:
            self._fetch(ended=ended)
            self._skip_to_tail()
        pending = self._pending
        newest = {segment.stream: segment.end for segment in pending}
        cuts = self._cuts(pending)
        kept: List[Segment] = []
        skipping: Dict[str, bool] = {}
        for stream, start, end in pending:
            if stream == protocol.OUTPUTS:
                self._send_whole(start, end, kept)
                continue
            cut = cuts[stream]
            if start < cut and not skipping.get(stream):
                skipping[stream] = True
                self._sink.send(protocol.Gap(self._run_id, stream, start, cut))
            start = max(start, cut)  # noqa: PLW2901  (the rest of the segment)
            if start < end:
                data = self._cursor.read(stream, start, end)
                if end == newest[stream] and not ended:
                    data = _hold_back(stream, start, data, kept)
                self._output(stream, start, data)
        self._pending = kept

    def _send_whole(self, start: int, end: int, kept: List[Segment]) -> None:
        """Send messages as far as the client takes them; the rest goes to ``kept``."""
        while start < end and self._room():
            data = self._cursor.read(protocol.OUTPUTS, start, min(end, start + protocol.CHUNK_BYTES))
            if not data:
                return
            self._output(protocol.OUTPUTS, start, data)
            start += len(data)
        if start < end:
            kept.append(Segment(protocol.OUTPUTS, start, end))

    def _skip_to_tail(self) -> None:
        """Make one piece of each stream of what is too old to be shown: a long journal must fit into little memory."""
        old: Dict[str, Segment] = {}
        for stream, start, end in self._pending[:-TAIL_PIECES]:
            old[stream] = Segment(stream, old[stream].start if stream in old else start, end)
        if old:
            self._pending = [*old.values(), *self._pending[-TAIL_PIECES:]]

    def _cuts(self, pending: List[Segment]) -> Dict[str, int]:
        """Where each stream's tail begins: its newest bytes, from a line's start."""
        first: Dict[str, int] = {}
        ends: Dict[str, int] = {}
        for stream, start, end in pending:
            first.setdefault(stream, start)
            ends[stream] = end
        cuts = dict(ends)
        for stream, start, _ in pending[: -TAIL_PIECES - 1 : -1]:
            cuts[stream] = max(start, ends[stream] - TAIL_BYTES)
        for stream, cut in cuts.items():
            if cut > first[stream]:
                cuts[stream] = cut + tail_start(self._cursor.read(stream, cut, ends[stream]))
        return cuts


def _hold_back(stream: str, start: int, data: bytes, kept: List[Segment]) -> bytes:
    """``data`` without a character that is not complete yet, which goes to ``kept``: no gap may begin inside one."""
    held = incomplete_suffix(data)
    if not held:
        return data
    kept.append(Segment(stream, start + len(data) - held, start + len(data)))
    return data[:-held]


class Watch:
    """One client's watch of one run: its feeds, and the run's end after all of them."""

    def __init__(self, request: protocol.WatchRun, folder: Path, sink: Sink) -> None:
        self.request = request
        self._sink = sink
        self._feeds: List[Feed] = []
        self._ended: Optional[protocol.RunEnded] = None
        self.over = False
        offsets = {
            protocol.STDOUT: (request.stdout, request.stdout_offset),
            protocol.STDERR: (request.stderr, request.stderr_offset),
            protocol.OUTPUTS: (request.outputs, request.outputs_offset),
        }
        makers: Dict[str, Callable[[Cursor], Feed]] = {
            protocol.ALL: lambda cursor: AllFeed(request.run_id, cursor, sink),
            protocol.SHOW: lambda cursor: ShowFeed(request.run_id, cursor, sink, request.shown_bytes),
        }
        for mode, make in makers.items():
            wanted = {stream: offset for stream, (how, offset) in offsets.items() if how == mode}
            if wanted:
                self._feeds.append(make(Cursor(folder, wanted)))

    @property
    def wake_at(self) -> Optional[float]:
        """When to pump again without an event, by the monotonic clock."""
        return min((feed.wake_at for feed in self._feeds if feed.wake_at is not None), default=None)

    @property
    def blocked(self) -> bool:
        """Whether something waits until the client takes more."""
        return any(feed.blocked for feed in self._feeds)

    def end(self, ended: protocol.RunEnded) -> None:
        """The run is over: its journal is complete."""
        self._ended = ended

    def pump(self, now: float) -> None:
        """Send what may travel now, and the end when all has."""
        for feed in self._feeds:
            feed.pump(now, ended=self._ended is not None)
        if self._ended is not None and not self.over and all(feed.drained for feed in self._feeds):
            self._sink.send(self._ended)
            self.over = True

    def close(self) -> None:
        """Close the journal's files."""
        for feed in self._feeds:
            feed.close()


class JournalReader:
    """The answer to one ``ReadJournal``, sent as the client takes it."""

    def __init__(self, request: protocol.ReadJournal, cursor: Cursor, end: int, sink: Sink) -> None:
        self._request = request
        self._cursor = cursor
        self._at = min(request.start, end)
        self._end = end
        self._sink = sink
        self.over = False

    def pump(self) -> None:
        """Send as much as the client takes now."""
        for _ in range(_CHUNKS_PER_TURN):
            if self.over or not has_room(self._sink):
                return
            stop = min(self._at + WHOLE_CHUNK_BYTES, self._end)
            data = self._cursor.read(self._request.stream, self._at, stop) if stop > self._at else b""
            compressed, payload = protocol.pack_payload(data)
            self.over = self._at + len(data) >= self._end or not data
            self._sink.send(
                protocol.JournalData(self._request.request, self._at, len(data), compressed, self.over, payload)
            )
            self._at += len(data)

    def close(self) -> None:
        """Close the journal's files."""
        self._cursor.close()
