"""One try to have a container: a thread asks for it, and who waits sees how far it is, and can give it up."""

from __future__ import annotations

import concurrent.futures
import functools
import queue
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future

from skyrl_magic.core.cancel import Cancel, Cancelled
from skyrl_magic.core.errors import AlreadyExists, BackendError, NoCapacity, NotFound, SkyRLMagicError
from skyrl_magic.core.ports import Backend, Sandbox, SandboxRequest
from skyrl_magic.service.session import TICK_S, Progress

#: A container that is there within this time was not queued, in seconds.
QUEUE_SAID_S = 3.0
#: What holds up the making of a container, such as a throttled call, is told again within this time for as long as it
#: lasts, in seconds: modal's client (1.6.4: ``grpc_utils``) does so after 30 s.
TOLD_AGAIN_S = 35.0
#: How long the server may take to confirm that a creation is cancelled, in seconds.
CONFIRM_S = 5.0
#: The phase in which the container is made; nothing is there to be ended before it.
_CONTAINER = "container"

#: What is said in the thread that waits, in order; None at the end.
Said = queue.SimpleQueue[Callable[[], object] | None]


class Attempt:
    """The creation of one container, under way.

    Args:
        pool: where it is asked for.
        backend: who is asked.
        wanted: what is asked for.
        progress: shows how far it is.
        said: what the thread wants to be said meanwhile.
    """

    def __init__(
        self, pool: Executor, backend: Backend, wanted: SandboxRequest, progress: Progress, said: Said
    ) -> None:
        self._pool, self._wanted, self._progress, self._said = pool, wanted, progress, said
        self._phase = ""
        self._told_at = 0.0
        self._container_at: float | None = None
        self.cancel = Cancel()
        self.is_queued = False
        """It was said that it waits for its machine."""
        self.gave_up = False
        """Who waited for it has given it up."""
        self._future: Future[Sandbox] = pool.submit(backend.create, wanted, self._hear, self.cancel)
        self._future.add_done_callback(lambda _: said.put(None))

    @property
    def waited_s(self) -> float:
        """How long it has waited for its machine, in seconds."""
        return 0.0 if self._container_at is None else time.monotonic() - self._container_at

    def follow(self, wait_s: float | None) -> Sandbox | None:
        """The container, or None where its machine has not come within ``wait_s``. Raises as ``Backend.create``."""
        while True:
            try:
                tell = self._said.get(timeout=TICK_S)
            except queue.Empty:
                if wait_s is not None and self.waited_s >= wait_s:
                    return None
                self._tick()
                continue
            if tell is None:
                return self._future.result()
            tell()

    def give_up(self) -> Sandbox:
        """Cancel the creation; the container where it has come in this very moment.

        Raises:
            SkyRLMagicError: the creation failed, in this moment; BackendError also where the server does not say
                whether something is left. Cancelled: the server has confirmed that nothing is left. TimeoutError: it
                has not; a container that comes later is ended all the same.
        """
        self.gave_up = True
        self.cancel.set()
        # A phase is told before it is looked whether it was given up: what was not told by now does not begin.
        while not self._said.empty():
            if (tell := self._said.get()) is not None:
                tell()
        if self._container_at is None:
            raise Cancelled
        try:
            return self._future.result(CONFIRM_S)
        except concurrent.futures.TimeoutError:
            self._future.add_done_callback(_end)
            raise TimeoutError from None

    def stop(self) -> str:
        """Cancel the creation, or end the container that has come; what became of it, for the user."""
        try:
            self._pool.submit(self.give_up().terminate).result(CONFIRM_S)
        except (NoCapacity, AlreadyExists, NotFound):  # there was nothing to be cancelled
            pass
        except (TimeoutError, concurrent.futures.TimeoutError, BackendError):
            return "its container is being ended, %skyrl_sessions shows whether it is gone"
        except (Cancelled, SkyRLMagicError):
            pass
        return "its creation is cancelled"

    def _hear(self, phase: str) -> None:
        self._said.put(functools.partial(self._begin, phase))

    def _begin(self, phase: str) -> None:
        self._told_at = time.monotonic()
        if phase == self._phase or self.is_queued:
            return
        self._phase = phase
        if phase == _CONTAINER:
            self._container_at = time.monotonic()
        self._progress.begin(phase)

    def _tick(self) -> None:
        asked = self._container_at is not None and self.waited_s >= QUEUE_SAID_S
        if asked and not self.is_queued and not self._is_held_up():
            self.is_queued = True
            self._phase = f"waiting for {self._wanted.spec.gpu.noun}"
            self._progress.begin(self._phase, "■ cancels it")
        self._progress.tick()

    def _is_held_up(self) -> bool:
        """Whether it is known that something else than its machine is waited for: nobody says when that is over."""
        return self._phase != _CONTAINER and time.monotonic() - self._told_at < TOLD_AGAIN_S


def _end(future: Future[Sandbox]) -> None:
    """End the container that nobody waits for any more."""
    if not future.cancelled() and future.exception() is None:
        future.result().terminate()
