"""A run's socket for those who watch it: each byte that comes says that the journal has grown."""

from __future__ import annotations

import contextlib
import selectors
import socket
from pathlib import Path
from typing import List

from skyrl_magic.agent import paths
from skyrl_magic.agent.wire import listen_unix


class Notifier:
    """Listens in the run's folder; used by whoever writes its journal."""

    def __init__(self, folder: Path, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._watchers: List[socket.socket] = []
        self._listener = listen_unix(folder / paths.NOTIFY_SOCKET)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def grown(self) -> None:
        """Tell every watcher."""
        for watcher in list(self._watchers):
            try:
                watcher.send(b"\1")
            except BlockingIOError:
                pass  # it has not read the last ones: it will look
            except OSError:
                self._watchers.remove(watcher)
                watcher.close()

    def close(self) -> None:
        """Watchers see the end; the supervisor removes the socket's file."""
        self._selector.unregister(self._listener)
        self._listener.close()
        for watcher in self._watchers:
            watcher.close()
        self._watchers.clear()

    def _accept(self, _: int) -> None:
        with contextlib.suppress(OSError):
            watcher, _ = self._listener.accept()
            watcher.setblocking(False)
            self._watchers.append(watcher)
            watcher.send(b"\1")  # the journal may have grown since it looked
