"""Stop while a cell runs, without a KeyboardInterrupt where it does harm.

That may come between any two bytecodes, also where a frame was taken from a queue and is not shown yet. So, once a run
has begun, Stop is an event among the run's own, and nothing is cut short.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, final

#: So long after the interrupt Jupyter's request to end is here, in seconds; it is sent right behind it.
SHUTDOWN_S = 0.1
#: No wait of the main thread is longer, in seconds. A signal that comes right before a wait begins does not end it: its
#: handler runs between two bytecodes, and CPython does not look for it once more (measured: one Stop in 1,500 was heard
#: with the next event only, or the next press).
LOOK_S = 0.5
#: What ``signal.signal`` takes and gives.
_Handler = Callable[[int, FrameType | None], Any] | int | None


@final
class Interrupts:
    """A context manager around a cell: SIGINT raises KeyboardInterrupt until :meth:`divert`; from then on it counts.

    Signals come to the main thread alone; elsewhere there is nothing to take over, and :meth:`press` stands for them.

    Args:
        kernel_ends: waits so many seconds for the news that this notebook's kernel is to end; whether they came.
    """

    def __init__(self, kernel_ends: Callable[[float], bool] = lambda _: False) -> None:
        self._kernel_ends = kernel_ends
        self._presses = 0
        self._wake: Callable[[], object] | None = None
        self._before: _Handler = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, lambda *_: self.press())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """In the block Stop raises KeyboardInterrupt again: it ends what waits for the user."""
        wake, self._wake = self._wake, None
        try:
            yield
        finally:
            self._wake = wake

    def divert(self, wake: Callable[[], object]) -> None:
        """From now on Stop raises nothing: it is counted, and ``wake`` is called, in a signal handler."""
        self._wake = wake

    def press(self) -> None:
        """Stop was pressed."""
        if self._wake is None:
            raise KeyboardInterrupt
        self._presses += 1
        self._wake()

    def pause(self, wait_s: float) -> bool:
        """Wait; True as soon as Stop was pressed, which still counts for :meth:`take`."""
        if self._presses:
            return True
        pressed, wake = threading.Event(), self._wake
        self._wake = pressed.set
        try:
            return wait_until_set(pressed, wait_s)
        finally:
            self._wake = wake

    def kernel_ends(self) -> bool:
        """Whether a press was no Stop: Jupyter interrupts a kernel before it asks it to end, for a restart say."""
        return self._kernel_ends(SHUTDOWN_S)

    def take(self) -> int:
        """How often Stop was pressed since this was last asked."""
        presses, self._presses = self._presses, 0
        return presses


def look_s(due_s: float | None) -> float:
    """How long to wait for an event where something is due in so many seconds, or nothing is."""
    return LOOK_S if due_s is None else min(due_s, LOOK_S)


def wait_until_set(
    event: threading.Event, timeout_s: float | None, meanwhile: Callable[[], object] = lambda: None
) -> bool:
    """``event.wait``, which Stop ends whenever it comes; ``meanwhile`` is called every :data:`LOOK_S`."""
    until_s = None if timeout_s is None else time.monotonic() + timeout_s
    while not event.wait(look_s(None if until_s is None else max(0.0, until_s - time.monotonic()))):
        meanwhile()
        if until_s is not None and time.monotonic() >= until_s:
            return False
    return True
