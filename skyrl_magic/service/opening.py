"""The way into a container that is not there yet, as the one who waits for it sees it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, wait

from skyrl_magic.core.errors import RunStopped, SessionError
from skyrl_magic.service.session import TICK_S, Progress, Session

#: A session that somebody else has asked for is looked at every so many ticks.
_TICKS = 2


def open_new(session: Session, progress: Progress) -> None:
    """Open a session that was created just now, however long its container takes: a first pull of its image is long.

    Args:
        session: it has its machine.
        progress: shows how long it takes, in the phase that has begun.

    Raises:
        RunStopped: interrupted; the container is ended. As ``Session.open``.
    """
    opening: Future[None] = Future()

    def work() -> None:
        try:
            session.open()
        except BaseException as error:  # noqa: BLE001  (the one who waits raises it)
            opening.set_exception(error)
        else:
            opening.set_result(None)

    threading.Thread(target=work, name="skyrl-open", daemon=True).start()
    try:
        while not wait([opening], TICK_S).done:
            progress.tick()
        opening.result()
    except KeyboardInterrupt:
        threading.Thread(target=session.sandbox.terminate, name="skyrl-end").start()
        session.close()
        text = f"stopped while session {session.name} was starting; its container is being ended"
        raise RunStopped(text) from None


def wait_for_machine(session: Session, progress: Progress | None) -> None:
    """Wait with a session that another notebook has asked for until it has its machine.

    Raises:
        SessionError: nobody sees that it is waited for. RunStopped: interrupted; the session waits on.
    """
    cancels = f"%skyrl_stop {session.name} cancels it"
    waits = f"session {session.name} waits for {session.spec.gpu.noun}"
    if progress is None:
        raise SessionError(f"{waits}, which is not free yet; {cancels}")
    progress.begin(f"waiting for {session.spec.gpu.noun}", f"■ stops waiting, {cancels}")
    try:
        while session.sandbox.is_queued():
            for _ in range(_TICKS):
                time.sleep(TICK_S)
                progress.tick()
    except KeyboardInterrupt:
        raise RunStopped(f"stopped waiting; {waits} all the same: {cancels}") from None
