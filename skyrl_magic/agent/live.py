"""A watch of a run that may still be going: woken by the run's shim, by its own clock, or by room for more."""

from __future__ import annotations

import contextlib
import selectors
import socket
from pathlib import Path
from typing import Optional

from skyrl_magic.agent import paths
from skyrl_magic.agent.feed import Sink, has_room
from skyrl_magic.agent.watch import Watch
from skyrl_magic.agent.wire import connect_unix
from skyrl_magic.core import protocol

_WAKE_BYTES = 64 * 1024


class LiveWatch:
    """One client's watch, with its connection to the run's shim.

    The connection is listened to only while the watch has nothing else to wait for, so that a flood wakes ``attach``
    once for each tick and not once for each write.
    """

    def __init__(self, request: protocol.WatchRun, folder: Path, sink: Sink, selector: selectors.BaseSelector) -> None:
        self._watch = Watch(request, folder, sink)
        self._folder = folder
        self._sink = sink
        self._selector = selector
        self._socket: Optional[socket.socket] = None
        self._listening = False
        self._due = False
        self.ending = False

    @property
    def over(self) -> bool:
        """Whether the run's end was sent."""
        return self._watch.over

    @property
    def wake_at(self) -> Optional[float]:
        """When to pump again without an event, by the monotonic clock."""
        return self._watch.wake_at

    def started(self) -> None:
        """The run is alive: send what is there and follow it."""
        self._due = True
        if self._socket is None:
            with contextlib.suppress(OSError):  # it is over already; its end is on the way
                self._socket = connect_unix(self._folder / paths.NOTIFY_SOCKET)
                self._listen(wanted=True)

    def end(self, ended: protocol.RunEnded) -> None:
        """The run is over and its journal complete."""
        self._watch.end(ended)
        self._due = self.ending = True
        self._disconnect()

    def pump(self, now: float) -> None:
        """Send what may travel now, if there is a reason to look."""
        due = self._due or (self.wake_at is not None and now >= self.wake_at)
        if due or (self._watch.blocked and has_room(self._sink)):
            self._due = False
            self._watch.pump(now)
            self._listen(wanted=self.wake_at is None and not self._watch.blocked)

    def close(self) -> None:
        """Leave the run alone."""
        self._disconnect()
        self._watch.close()

    def _grown(self, _: int) -> None:
        assert self._socket is not None  # noqa: S101  (it is registered)
        try:
            data = self._socket.recv(_WAKE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._due = True
        if not data:
            self._disconnect()

    def _listen(self, *, wanted: bool) -> None:
        if self._socket is not None and wanted != self._listening:
            self._listening = wanted
            if wanted:
                self._selector.register(self._socket, selectors.EVENT_READ, self._grown)
            else:
                self._selector.unregister(self._socket)

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._listen(wanted=False)
            self._socket.close()
            self._socket = None
