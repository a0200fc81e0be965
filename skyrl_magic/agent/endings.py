"""Runs that somebody wants to end: each signal in turn, whether or not the client that asked is still there."""

from __future__ import annotations

import signal
import time
from typing import Callable, Dict, NamedTuple, Optional

from skyrl_magic.agent.run import ENDED, Run

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
#: A Python run's kernel has variables: it is interrupted, and only ended when that is asked for again.
_PYTHON_SIGNALS = (signal.SIGINT, signal.SIGKILL)


class _Ending(NamedTuple):
    run: Run
    step: int
    grace_s: float
    next_at: Optional[float]
    """By the monotonic clock; None where no other signal follows by itself."""


class Endings:
    """The runs that are being ended.

    Args:
        send: sends a signal to all processes of a run.
    """

    def __init__(self, send: Callable[[Run, int], None]) -> None:
        self._send = send
        self._endings: Dict[str, _Ending] = {}

    @property
    def due_at(self) -> Optional[float]:
        """When :meth:`tick` has something to do, by the monotonic clock; None while it has not."""
        times = [ending.next_at for ending in self._endings.values() if ending.next_at is not None]
        return min(times) if times else None

    def begin(self, run: Run, grace_s: float) -> None:
        """Send the first signal, or the next one where the run is being ended already."""
        if not grace_s >= 0:
            raise ValueError(f"a grace period of {grace_s}s cannot be")
        before = self._endings.get(run.run_id)
        self._step(run, 0 if before is None else before.step + 1, grace_s)

    def tick(self) -> None:
        """Send what is due."""
        now = time.monotonic()
        for run_id, ending in list(self._endings.items()):
            if ending.run.state == ENDED:
                del self._endings[run_id]
            elif ending.next_at is not None and now >= ending.next_at:
                self._step(ending.run, ending.step + 1, ending.grace_s)

    def _step(self, run: Run, step: int, grace_s: float) -> None:
        signals = _SIGNALS if run.cell is None else _PYTHON_SIGNALS
        step = min(step, len(signals) - 1)
        more = run.cell is None and step < len(signals) - 1
        self._endings[run.run_id] = _Ending(run, step, grace_s, time.monotonic() + grace_s if more else None)
        run.cancelled = signals[step].name
        self._send(run, signals[step])
