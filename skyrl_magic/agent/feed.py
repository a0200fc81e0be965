"""Streams of one run on their way to a client: what both ways of watching them have in common, and the whole way."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Protocol

from skyrl_magic.agent.journal import Cursor
from skyrl_magic.core import protocol

#: Least time between two sends of one watch, in seconds; the first goes at once.
COALESCE_S = 0.02
#: Nothing is read from a journal while more than this waits for the client, in bytes.
ROOM_BYTES = 256 * 1024
#: Pieces of a journal that a feed holds before it reads on.
_ENOUGH_PIECES = 1000
#: What travels whole is cut into chunks of so many bytes: large ones cost Python less and compress better.
WHOLE_CHUNK_BYTES = 1024 * 1024
#: Chunks that one watch sends before others get their turn.
CHUNKS_PER_TURN = 2


class Piece(NamedTuple):
    """Bytes ``[start, end)`` of a stream that wait; with ``redrawn``, nothing of them is to be seen any more."""

    stream: str
    start: int
    end: int
    redrawn: bool = False


class Sink(Protocol):
    """Where frames go; ``queued_bytes`` is what the client has not taken yet."""

    queued_bytes: int

    def send(self, message: protocol.Message) -> None:
        """Queue a frame."""


def has_room(sink: Sink) -> bool:
    """Whether the client takes more."""
    return sink.queued_bytes < ROOM_BYTES


class Feed:
    """Streams of one run on their way to one client.

    After :meth:`pump`, ``wake_at`` is when to pump again (None: when the journal grows) and ``blocked`` says that the
    client must take something first.
    """

    def __init__(self, run_id: str, cursor: Cursor, sink: Sink) -> None:
        self._run_id = run_id
        self._cursor = cursor
        self._sink = sink
        self._pending: List[Piece] = []
        self._not_before = 0.0
        self._shown_bytes = 0
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
        last = self._pending[-1] if self._pending else None
        if fresh and last and last.stream == fresh[0].stream and not last.redrawn:
            self._pending[-1] = last._replace(end=fresh.pop(0).end)
        self._pending += [Piece(*segment) for segment in fresh]

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
            shown_bytes = 0 if stream == protocol.OUTPUTS else self._shown_bytes
            self._sink.send(
                protocol.Output(self._run_id, stream, offset, len(data), compressed, payload, shown_bytes=shown_bytes)
            )


class AllFeed(Feed):
    """Every byte, in order."""

    def _send(self, now: float, *, ended: bool) -> None:  # noqa: ARG002  (everything travels, at the end too)
        for _ in range(CHUNKS_PER_TURN):
            if not self._pending:
                self._not_before = now + COALESCE_S
                return
            if not self._room():
                return
            stream, start, end, _ = self._pending[0]
            data = self._cursor.read(stream, start, min(end, start + WHOLE_CHUNK_BYTES))
            self._output(stream, start, data)
            if start + len(data) >= end or not data:
                self._pending.pop(0)
            else:
                self._pending[0] = Piece(stream, start + len(data), end)
        self.wake_at = now
