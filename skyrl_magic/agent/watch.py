"""A client's watch of a run, and its reading of a part of a journal. ``agent.show`` has the rules of what travels."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, List, Optional

from skyrl_magic.agent.feed import CHUNKS_PER_TURN, WHOLE_CHUNK_BYTES, AllFeed, Feed, Sink, has_room
from skyrl_magic.agent.journal import Cursor
from skyrl_magic.agent.show import ShowFeed
from skyrl_magic.core import protocol


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
        shown = {stream: offsets[stream][1] for stream in protocol.STREAMS}
        limits = {protocol.STDOUT: request.stdout_end, protocol.STDERR: request.stderr_end}
        ends = {stream: end for stream, end in limits.items() if end >= 0}
        makers: Dict[str, Callable[[Cursor], Feed]] = {
            protocol.ALL: lambda cursor: AllFeed(request.run_id, cursor, sink),
            protocol.SHOW: lambda cursor: ShowFeed(request.run_id, cursor, sink, request.shown_bytes, shown),
        }
        for mode, make in makers.items():
            wanted = {stream: offset for stream, (how, offset) in offsets.items() if how == mode}
            if wanted:
                self._feeds.append(make(Cursor(folder, wanted, ends)))

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
        for _ in range(CHUNKS_PER_TURN):
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
