"""A run that no cell waits for: a thread follows it, and anybody can ask how it gets on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from skyrl_magic.core.errors import RunLeft, SkyRLMagicError
from skyrl_magic.core.spec import RunRequest
from skyrl_magic.service.follow import Sink
from skyrl_magic.service.interrupts import Interrupts, wait_until_set
from skyrl_magic.service.runs import RunResult, RunService
from skyrl_magic.service.session import Session
from skyrl_magic.service.watch import Leave, Watch


class BackgroundRun:
    """Follows a run in a thread of its own until it ends, or until a cell wants to follow it.

    Args:
        runs: starts and follows runs.
        session: where it runs.
        request: what was asked for.
        sink: takes its events, in that thread.
        on_end: called in that thread when it is over.
    """

    def __init__(
        self, runs: RunService, session: Session, request: RunRequest, sink: Sink, on_end: Callable[[], None]
    ) -> None:
        self._runs, self.session, self.request, self._sink, self._on_end = runs, session, request, sink, on_end
        self._interrupts = Interrupts()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._watch: Watch | None = None
        self._began_s = time.monotonic()
        self.result: RunResult | None = None
        """How it ended; None before that, and where :attr:`error` says why nobody knows."""
        self.error: SkyRLMagicError | None = None

    @property
    def done(self) -> bool:
        """Whether it is over, or nobody can know."""
        return self._over.is_set()

    @property
    def duration_s(self) -> float:
        """How long it ran, or has been running, in seconds."""
        return time.monotonic() - self._began_s if self.result is None else self.result.duration_s

    def start(self, run_id: str) -> None:
        """Start the run and follow it. Raises as :meth:`RunService.start`."""
        self._follow(self._runs.start(self.session, self.request, run_id, self._sink, self._interrupts))

    def attach(self, run_id: str) -> None:
        """Follow the run again, which goes on. Raises SessionError."""
        self._follow(self._runs.attach(self.session, self.request, run_id, self._interrupts))

    def leave(self) -> None:
        """Stop following, as a cell is about to: :meth:`attach` or :meth:`finish` comes next."""
        if self._watch is not None and self._thread is not None:
            self._watch.events.put(Leave())
            self._thread.join()

    def finish(self, result: RunResult | None, error: SkyRLMagicError | None) -> None:
        """It is over, or nobody can know."""
        if not self.done:
            self.result, self.error = result, error
            self._over.set()
            self._on_end()

    def wait(self, timeout_s: float | None = None, meanwhile: Callable[[], object] = lambda: None) -> bool:
        """Wait for its end; False where that did not come in time. ``meanwhile`` is called twice a second."""
        return wait_until_set(self._over, timeout_s, meanwhile)

    def cancel(self) -> None:
        """End it: SIGINT, then SIGTERM and SIGKILL after a grace period each; called again, the next one at once."""
        if not self.done:
            self._interrupts.press()

    def _follow(self, watch: Watch) -> None:
        def follow() -> None:
            try:
                result = self._runs.follow(self.session, self.request, watch, self._sink, self._interrupts)
            except RunLeft:
                return
            except SkyRLMagicError as error:
                self.finish(None, error)
            else:
                self.finish(result, None)

        self._watch = watch
        self._thread = threading.Thread(target=follow, name=f"skyrl-run-{watch.run_id}", daemon=True)
        self._thread.start()
