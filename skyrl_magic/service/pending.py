"""Who waits for what a channel's agent sends: requests for their answers, watches for their run's frames."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import TypeVar

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import SessionError, SessionLost
from skyrl_magic.core.protocol.durations import duration_text
from skyrl_magic.service.connection import checked
from skyrl_magic.service.watch import Lost, Watch, WatchEvent

M = TypeVar("M", bound=protocol.Message)


class PendingRequest:
    """A request that waits for what answers it; ``number`` tells the two belong together."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.answers: queue.SimpleQueue[protocol.Message | Exception] = queue.SimpleQueue()

    def answer(self, reply: type[M], timeout_s: float) -> M:
        """The next answer.

        Raises:
            ChannelBroken: the connection broke meanwhile. SessionLost: the container is gone.
            SessionError: the session refused, or did not answer in time.
        """
        try:
            return checked(self.answers.get(timeout=timeout_s), reply)
        except queue.Empty:
            raise SessionError(f"the session did not answer in {duration_text(timeout_s)}") from None


class Pending:
    """Outlives the connections of a channel. ``lost`` says that nothing comes any more, and why."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._requests: dict[int, PendingRequest] = {}
        self._watches: dict[str, Watch] = {}
        self._seen: dict[str, protocol.Seen] = {}
        self._lock = threading.Lock()
        self.lost: SessionLost | None = None

    @property
    def asks(self) -> bool:
        """Whether a request waits for its answer."""
        return bool(self._requests)

    @property
    def watches(self) -> Sequence[Watch]:
        """The watches that there are."""
        with self._lock:
            return list(self._watches.values())

    @contextlib.contextmanager
    def request(self) -> Iterator[PendingRequest]:
        """A request that can be answered until the block is left. Raises SessionLost."""
        request = PendingRequest(next(self._numbers))
        with self._lock:
            if self.lost is not None:
                raise self.lost
            self._requests[request.number] = request
        try:
            yield request
        finally:
            with self._lock:
                self._requests.pop(request.number, None)

    def add_watch(self, watch: Watch) -> None:
        """Let a watch hear of its run. Raises SessionLost."""
        with self._lock:
            if self.lost is not None:
                raise self.lost
            self._watches[watch.run_id] = watch

    def drop_watch(self, watch: Watch) -> None:
        """A watch hears no more."""
        with self._lock:
            self._watches.pop(watch.run_id, None)
            if watch.seen is not None:
                self._seen[watch.run_id] = watch.seen

    def take_seen(self) -> Sequence[protocol.Seen]:
        """How far cells have shown their runs, where the agent was not told yet."""
        with self._lock:
            seen = self._seen | {w.run_id: w.seen for w in self._watches.values() if w.seen is not None}
            self._seen = {}
        return list(seen.values())

    @property
    def has_seen(self) -> bool:
        """Whether :meth:`take_seen` has something."""
        with self._lock:
            return bool(self._seen) or any(watch.seen is not None for watch in self._watches.values())

    def keep_seen(self, seen: Sequence[protocol.Seen]) -> None:
        """Keep what the agent could not be told; what came meanwhile is newer."""
        with self._lock:
            self._seen = {one.run_id: one for one in seen} | self._seen

    def answer(self, number: int, message: protocol.Message) -> None:
        """Give a request its answer; where nobody waits for it any more it is left out."""
        with self._lock:
            request = self._requests.get(number)
        if request is not None:
            request.answers.put(message)

    def hear(self, run_id: str, message: protocol.Message) -> None:
        """Give the run's watch a frame. Raises KeyError for a stream that no run has."""
        with self._lock:
            watch = self._watches.get(run_id)
        if watch is not None:
            watch.put(message)

    def tell(self, event: WatchEvent) -> None:
        """Tell every watch."""
        for watch in self.watches:
            watch.events.put(event)

    def fail_requests(self, error: Exception) -> None:
        """Tell every request that it gets no answer."""
        with self._lock:
            waiting = list(self._requests.values())
        for request in waiting:
            request.answers.put(error)

    def lose(self, error: SessionLost) -> None:
        """Let nobody begin to wait any more, and tell who does."""
        with self._lock:
            self.lost = error
        self.fail_requests(error)
        self.tell(Lost(error))
