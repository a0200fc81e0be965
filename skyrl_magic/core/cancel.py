"""How one thread gives up what another does for it."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Cancelled(Exception):
    """What was under way was given up, and nothing of it is left."""


class Cancel:
    """Says to who works that nobody waits for the result any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_set = False
        self._callbacks: list[Callable[[], object]] = []

    @property
    def is_set(self) -> bool:
        """Whether it was given up."""
        return self._is_set

    def set(self) -> None:
        """Give it up; who works is told in this thread. Again: no effect."""
        with self._lock:
            self._is_set = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def on_set(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` when it is given up, or now where it was."""
        with self._lock:
            if not self._is_set:
                self._callbacks.append(callback)
                return
        callback()

    def check(self) -> None:
        """Raises Cancelled where it was given up."""
        if self._is_set:
            raise Cancelled
