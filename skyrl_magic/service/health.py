"""Whether a channel's connection still carries: pings, and what is done where they stay unanswered.

One thread sends the pings, as that can hang in the backend's client, and one looks at the clock.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from skyrl_magic.core.errors import BackendError
from skyrl_magic.service.connection import Timing


class Patient(Protocol):
    """The channel that is looked after. Its methods are called in threads of their own."""

    @property
    def awaited(self) -> bool:
        """Somebody waits for what comes over it: a run is followed."""
        ...

    def ping(self, number: int) -> None:
        """Send a ping; it may take long, or not happen."""
        ...

    def revive(self) -> bool:
        """Whether the server behind the connection had gone, and is back. Raises BackendError."""
        ...

    def drop(self) -> None:
        """Give the connection up for another one."""
        ...

    def tell(self, *, broken: bool) -> None:
        """Say that the connection is in trouble, or that it carries again."""
        ...


@dataclass
class _Silence:
    """Since when nothing answers; monotonic, in seconds."""

    since_s: float
    asked: bool
    told: bool = False
    reviving: bool = False


class Health:
    """Looks after one channel.

    Args:
        patient: the channel.
        timing: how patient it is.
    """

    def __init__(self, patient: Patient, timing: Timing) -> None:
        self._patient = patient
        self._timing = timing
        self._left = threading.Event()
        self._lock = threading.Lock()
        self._silence: _Silence | None = None

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._ping_forever, name="skyrl-ping", daemon=True).start()
        threading.Thread(target=self._look_forever, name="skyrl-health", daemon=True).start()

    def leave(self) -> None:
        """End."""
        self._left.set()

    def answered(self) -> None:
        """The other side has answered."""
        with self._lock:
            silence, self._silence = self._silence, None
        if silence is not None and silence.told:
            self._patient.tell(broken=False)

    def broke(self) -> None:
        """The connection has ended; the channel opens another one."""
        with self._lock:
            if self._silence is None:
                self._silence = _Silence(time.monotonic(), asked=False)
            self._silence.asked = False  # what was asked over it is answered by nobody

    def _ping_forever(self) -> None:
        timing = self._timing
        step_s = min(timing.ping_interval_s, timing.awaited_ping_interval_s)
        pinged_at = time.monotonic()
        for number in itertools.count(1):
            if self._left.wait(step_s):
                return
            now = time.monotonic()
            if not self._patient.awaited and now - pinged_at < timing.ping_interval_s - step_s / 2:
                continue
            pinged_at = now
            with self._lock:
                if self._silence is None:
                    self._silence = _Silence(now, asked=True)
            self._patient.ping(number)

    def _look_forever(self) -> None:
        timing = self._timing
        while not self._left.wait(min(timing.revive_after_s, timing.pong_timeout_s) / 2):
            silence = self._silence
            if silence is None:
                continue
            silent_s = time.monotonic() - silence.since_s
            if silent_s > timing.trouble_s and not silence.told and self._patient.awaited:
                silence.told = True
                self._patient.tell(broken=True)
            if silent_s > timing.pong_timeout_s:
                self._drop(silence)
            elif silence.asked and silent_s > timing.revive_after_s and not silence.reviving:
                silence.reviving = True
                threading.Thread(target=self._revive, args=(silence,), name="skyrl-revive", daemon=True).start()

    def _revive(self, silence: _Silence) -> None:
        """In a thread of its own: to start a server takes seconds."""
        with contextlib.suppress(BackendError):  # the channel says so when it tries to open another connection
            if self._patient.revive():
                self._drop(silence)
        silence.reviving = False

    def _drop(self, silence: _Silence) -> None:
        with self._lock:
            drop = silence.asked and self._silence is silence
            silence.asked = False
        if drop:
            self._patient.drop()
