"""The newest lines of a run that nobody looks at all the time: what a terminal would show at its bottom."""

from __future__ import annotations

import itertools
import threading
from collections import deque

from skyrl_magic.core.display_intake import Intake
from skyrl_magic.core.protocol import STREAMS, Gap, Output
from skyrl_magic.core.streams import Row, Screen, Stamp

#: So many lines are kept; older ones are in the run's journal.
KEPT_LINES = 200
_DISPLAYS = "displays"


class NewestLines:
    """Takes a run's frames in one thread and tells its last lines in any other.

    All streams together, in the order in which their lines were finished; redrawn lines in their last state, without
    colours.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._intake = Intake()
        self._screens = {name: Screen() for name in (*STREAMS, _DISPLAYS)}
        self._finished: deque[str] = deque(maxlen=KEPT_LINES)
        self._clears = False
        """What comes next takes the place of all of it."""
        self._numbers = itertools.count(1)

    def feed(self, event: Output | Gap) -> None:
        """Take a frame. Raises :class:`ProtocolError` for a damaged one."""
        with self._lock:
            missing_bytes, data = self._intake.take(event)
            if missing_bytes or data:
                self._clear_at_last()
            if missing_bytes:
                self._screens[event.stream].break_off(self._stamp())
            self._write(event.stream, data)

    def add(self, text: str) -> None:
        """Take what came beside the streams: a display's text."""
        with self._lock:
            self._clear_at_last()
            self._write(_DISPLAYS, f"{text}\n".encode("utf-8", "replace"))

    def clear(self, *, wait: bool) -> None:
        """Forget all lines, as ``clear_output`` does; with ``wait``, when the next text comes."""
        with self._lock:
            self._clears = True
            if not wait:
                self._clear_at_last()

    def last(self, count: int) -> list[str]:
        """The last lines; those that are not finished come after the others."""
        with self._lock:
            unfinished = [row for screen in self._screens.values() for row in screen.rows if row.width]
            unfinished.sort(key=lambda row: row.changed)
            lines = [*self._finished, *map(_plain, unfinished)]
        return lines[-count:] if count > 0 else []

    def _clear_at_last(self) -> None:
        if self._clears:
            self._clears = False
            self._finished.clear()
            for screen in self._screens.values():
                screen.break_off(self._stamp())
                screen.take(screen.row_index)

    def _write(self, name: str, data: bytes) -> None:
        screen = self._screens[name]
        screen.feed(data, self._stamp())
        self._finished.extend(map(_plain, screen.take(screen.row_index)))

    def _stamp(self) -> Stamp:
        return Stamp(0.0, next(self._numbers))


def _plain(row: Row) -> str:
    return "".join(text for _, text in row.runs)
