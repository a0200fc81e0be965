"""What of a run's output travels to a cell that shows it, and when.

A stream watched as ``all`` travels whole (``agent.feed``). Streams watched as ``show`` travel whole up to a budget for
each run (:data:`HEAD_BYTES`); what comes after it is sent in ticks, of each tick the newest :data:`TAIL_BYTES` of a
stream, with a ``Gap`` for what was skipped, so at most 80 KB/s a stream. A run that prints less than that loses nothing
however long it lives, and the end of the output is always sent. Every byte of a shown stream is in exactly one
``Output`` or ``Gap``, in order. A Python run's ``outputs`` are messages: they travel whole in either case, in their
place among the text. Nothing here waits: the journal keeps what a slow client has not taken.

The budget counts what is to be seen (``agent.redraw``): what a progress bar draws over costs none of it. Where much of
that waits, it stays here, with a ``Gap`` that says so; what travels of it comes at no more than 80 KB/s.
"""

from __future__ import annotations

import time
from typing import Dict, List, Tuple

from skyrl_magic.agent.feed import COALESCE_S, Feed, Piece, Sink
from skyrl_magic.agent.journal import Cursor
from skyrl_magic.agent.redraw import Extent, Range, continues, incomplete_suffix, superseded
from skyrl_magic.core import protocol

#: What a run may show in all before ticks begin, in bytes. A cell shows about 1 MB (Jupyter lags beyond it).
HEAD_BYTES = 600_000
#: Length of a tick, in seconds, and what of each stream travels in one, in bytes.
TICK_S = 0.2
TAIL_BYTES = 16 * 1024
#: Where the two streams alternate quickly a tick sends at most so many pieces.
TAIL_PIECES = 200
#: More than this that waits is searched for what was drawn over, in bytes; of so much at once, for so long in a turn.
THIN_BYTES = 4 * 1024
SCAN_BYTES = 128 * 1024
SCAN_S = 0.05
#: Where searching all that waits would take longer than this, it is a flood like any other. In seconds.
_SCAN_ALL_S = 10.0
#: A frame that says that something was drawn over is not worth it for less, in bytes.
_LEAST_BYTES = 64


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
    while start < min(3, len(window)) and continues(window[start]):
        start += 1
    return start


def head_end(data: bytes) -> int:
    """Where to stop when the budget ends inside ``data``: after its last line, else before an incomplete character."""
    newline = data.rfind(b"\n")
    return newline + 1 if newline >= 0 else len(data) - incomplete_suffix(data)


class ShowFeed(Feed):
    """What a cell can show. ``shown_bytes`` is what the client has shown of the budget already.

    Args:
        offsets: where each text stream begins.
    """

    def __init__(self, run_id: str, cursor: Cursor, sink: Sink, shown_bytes: int, offsets: Dict[str, int]) -> None:
        super().__init__(run_id, cursor, sink)
        self._budget = max(HEAD_BYTES - shown_bytes, 0)
        self._extents = {stream: Extent(None if offset else 0) for stream, offset in offsets.items()}
        self._free_bytes, self._freed_at = float(TAIL_BYTES), 0.0
        """What may travel at no cost although it is drawn over; negative after more than that."""

    def _send(self, now: float, *, ended: bool) -> None:
        if self._budget:
            self._not_before = now + COALESCE_S
            if not self._send_head(now, ended=ended):
                return
            self._not_before = now + TICK_S
            self.wake_at = self._not_before
            if not ended:
                return
        if self._room():
            self._not_before = now + TICK_S
            self.wake_at = None
            self._send_tail(ended=ended)

    # --- within the budget ------------------------------------------------------------------------------------------

    def _send_head(self, now: float, *, ended: bool) -> bool:
        """Send pending bytes while the budget lasts; whether it is spent with bytes left."""
        later = self._thin_head(ended=ended)
        kept: List[Piece] = []
        newest = {piece.stream: piece.end for piece in self._pending}
        while self._pending and self._budget:
            if not self._room():
                break
            stream, start, end, redrawn = self._pending.pop(0)
            if redrawn:
                self._gap(stream, start, end, redrawn=True)
            elif stream == protocol.OUTPUTS:
                self._pending[:0] = self._send_whole(start, end)
            else:
                self._send_text(stream, start, end, kept, last=end == newest[stream] and not (ended or later))
        self._pending = kept + self._pending + later
        self._pace(now)
        if later and self.wake_at is None:
            self.wake_at = now if ended else self._not_before
        return not self._budget and not self.blocked and self._pending != kept

    def _send_text(self, stream: str, start: int, end: int, kept: List[Piece], *, last: bool) -> None:
        """Send a piece as far as the budget goes; the rest waits in its place, or in ``kept`` where more must come."""
        stop = min(end, start + min(protocol.CHUNK_BYTES, max(self._budget, THIN_BYTES)))
        data = self._cursor.read(stream, start, stop)
        if stop < end:
            data = data[: len(data) - incomplete_suffix(data)]
        elif last:
            data = _hold_back(stream, start, data, kept)
        self._pay(self._extents[stream], data)
        if stop < end:
            if not self._budget:
                data = data[: head_end(data)]
                self._extents[stream] = Extent(0 if data.endswith(b"\n") else None)
            self._pending.insert(0, Piece(stream, start + len(data), end))
        self._output(stream, start, data)

    def _pay(self, extent: Extent, data: bytes) -> None:
        """Take from the budget what is to be seen of ``data``; what a bar draws over is given back."""
        before = extent.visible_bytes
        extent.advance(data)
        grown = extent.visible_bytes - before
        self._free_bytes -= len(data) - max(grown, 0)
        cost = max(0.0, -TAIL_BYTES - self._free_bytes)
        self._free_bytes += cost
        self._budget = max(0, self._budget - grown - int(cost))
        self._shown_bytes = HEAD_BYTES - self._budget

    def _pace(self, now: float) -> None:
        rate = TAIL_BYTES / TICK_S
        self._free_bytes = min(float(TAIL_BYTES), self._free_bytes + (now - self._freed_at) * rate)
        self._freed_at = now
        if self._free_bytes < 0:
            self._not_before = max(self._not_before, now - self._free_bytes / rate)

    # --- what was drawn over ----------------------------------------------------------------------------------------

    def _thin_head(self, *, ended: bool) -> List[Piece]:
        """Mark what was drawn over while it waited. Returns what is left for the next turn."""
        begun, scanned = time.perf_counter(), 0
        while _size_bytes(self._pending) > THIN_BYTES:
            waiting = _size_bytes(self._pending)
            later = self._thin()
            scanned += waiting - _size_bytes(later)
            passed_s = time.perf_counter() - begun
            if passed_s * _size_bytes(later) > _SCAN_ALL_S * scanned:
                self._budget = 0
            if later and passed_s > SCAN_S:
                return later
            self._pending += later
            if not later or _size_bytes(self._pending) > waiting - SCAN_BYTES // 2:
                return []  # all is searched, or little of it was drawn over
            if self._cursor.more:
                self._fetch(ended=ended)
        return []

    def _thin(self) -> List[Piece]:
        """Search what comes first, :data:`SCAN_BYTES` of it. Returns the rest."""
        first, later = _split(self._pending, SCAN_BYTES)
        ranges: Dict[str, List[Range]] = {}
        for stream, extent in self._extents.items():
            mine = [piece for piece in first if piece.stream == stream and not piece.redrawn]
            data = b"".join(self._cursor.read(stream, start, end) for _, start, end, _ in mine)
            odd = extent.odd or not extent.between_tokens
            ranges[stream] = superseded(data, None if odd else extent.column, odd=odd, least_bytes=_LEAST_BYTES)
        self._pending = _marked(first, ranges)
        return later

    # --- after it ---------------------------------------------------------------------------------------------------

    def _send_tail(self, *, ended: bool) -> None:
        self._skip_to_tail()
        while self._cursor.more:
            self._fetch(ended=ended)
            self._skip_to_tail()
        if THIN_BYTES < _size_bytes(self._pending) <= SCAN_BYTES:
            self._thin()
        pending = self._pending
        newest = {piece.stream: piece.end for piece in pending}
        cuts = self._cuts(pending)
        kept: List[Piece] = []
        skipping: Dict[str, bool] = {}
        for number, (stream, begin, end, redrawn) in enumerate(pending):
            if stream == protocol.OUTPUTS:
                kept += self._send_whole(begin, end)
                if self.blocked:  # what comes after it stays after it
                    kept += _behind(pending[number + 1 :], {name: cuts[name] for name in skipping})
                    break
                continue
            cut = cuts[stream]
            if begin < cut and not skipping.get(stream):
                skipping[stream] = True
                self._gap(stream, begin, cut)
                self._extents[stream] = Extent(None)
            start = max(begin, cut)
            if redrawn and start < end:
                self._gap(stream, start, end, redrawn=True)
            elif start < end:
                data = self._cursor.read(stream, start, end)
                if end == newest[stream] and not ended:
                    data = _hold_back(stream, start, data, kept)
                self._extents[stream].advance(data)
                self._output(stream, start, data)
        self._pending = kept

    def _gap(self, stream: str, start: int, end: int, *, redrawn: bool = False) -> None:
        self._sink.send(protocol.Gap(self._run_id, stream, start, end, redrawn))

    def _send_whole(self, start: int, end: int) -> List[Piece]:
        """Send messages as far as the client takes them. Returns the rest."""
        while start < end and self._room():
            data = self._cursor.read(protocol.OUTPUTS, start, min(end, start + protocol.CHUNK_BYTES))
            if not data:
                return []
            self._output(protocol.OUTPUTS, start, data)
            start += len(data)
        return [Piece(protocol.OUTPUTS, start, end)] if start < end else []

    def _skip_to_tail(self) -> None:
        """Make one piece of each stream of what is too old to be shown: a long journal must fit into little memory."""
        old: Dict[str, Piece] = {}
        for stream, start, end, _ in self._pending[:-TAIL_PIECES]:
            old[stream] = Piece(stream, old[stream].start if stream in old else start, end)
        if old:
            self._pending = [*old.values(), *self._pending[-TAIL_PIECES:]]

    def _cuts(self, pending: List[Piece]) -> Dict[str, int]:
        """Where each stream's tail begins: its newest bytes, from a line's start."""
        first: Dict[str, int] = {}
        cuts: Dict[str, int] = {}
        for stream, start, end, _ in pending:
            first.setdefault(stream, start)
            cuts[stream] = end
        ends, left = dict(cuts), dict.fromkeys(cuts, TAIL_BYTES)
        for stream, start, end, redrawn in pending[: -TAIL_PIECES - 1 : -1]:
            if left[stream] > 0:
                cuts[stream] = start if redrawn else max(start, end - left[stream])
                left[stream] -= 0 if redrawn else end - start
        for stream, cut in cuts.items():
            if cut > first[stream]:
                cuts[stream] = cut + tail_start(self._cursor.read(stream, cut, ends[stream]))
        return cuts


def _hold_back(stream: str, start: int, data: bytes, kept: List[Piece]) -> bytes:
    """``data`` without a character that is not complete yet, which goes to ``kept``: no gap may begin inside one."""
    held = incomplete_suffix(data)
    if not held:
        return data
    kept.append(Piece(stream, start + len(data) - held, start + len(data)))
    return data[:-held]


def _behind(pieces: List[Piece], cuts: Dict[str, int]) -> List[Piece]:
    """The pieces without what comes before the cut of its stream."""
    moved = [piece._replace(start=max(piece.start, cuts.get(piece.stream, 0))) for piece in pieces]
    return [piece for piece in moved if piece.start < piece.end]


def _size_bytes(pieces: List[Piece]) -> int:
    """How much text of the pieces may have to travel."""
    return sum(piece.end - piece.start for piece in pieces if not piece.redrawn and piece.stream != protocol.OUTPUTS)


def _split(pieces: List[Piece], size_bytes: int) -> Tuple[List[Piece], List[Piece]]:
    """The pieces with the first ``size_bytes`` of text, and the others."""
    for number, piece in enumerate(pieces):
        size = _size_bytes([piece])
        if size > size_bytes:
            middle = piece.start + size_bytes
            return [*pieces[:number], piece._replace(end=middle)], [piece._replace(start=middle), *pieces[number + 1 :]]
        size_bytes -= size
    return pieces, []


def _marked(pieces: List[Piece], ranges: Dict[str, List[Range]]) -> List[Piece]:
    """The pieces, cut and marked where ``ranges`` of a stream's text that waits were drawn over."""
    found: List[Piece] = []
    newest: Dict[str, int] = {}
    passed = dict.fromkeys(ranges, 0)

    def add(piece: Piece) -> None:
        at = newest.get(piece.stream, -1)
        alike = at >= 0 and found[at].redrawn == piece.redrawn and found[at].end == piece.start
        if alike and (piece.redrawn or at == len(found) - 1):
            found[at] = found[at]._replace(end=piece.end)
        elif piece.start < piece.end:
            newest[piece.stream] = len(found)
            found.append(piece)

    for stream, start, end, redrawn in pieces:
        if redrawn or stream not in ranges:
            add(Piece(stream, start, end, redrawn))
            continue
        base, at = start - passed[stream], start
        for first, last in ranges[stream]:
            begin, stop = max(base + first, start), min(base + last, end)
            if begin < stop:
                add(Piece(stream, at, begin))
                add(Piece(stream, begin, stop, redrawn=True))
                at = stop
        add(Piece(stream, at, end))
        passed[stream] += end - start
    return found
