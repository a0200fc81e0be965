"""The way into a container that is not there yet, as the one who waits for it sees it."""

from __future__ import annotations

import math
import threading
import time

from skyrl_magic.core.errors import RunStopped, SessionError
from skyrl_magic.service.patience import wait_for
from skyrl_magic.service.session import TICK_S, Progress, Session

#: A session that somebody else has asked for is looked at every so many ticks.
_TICKS = 2


def open_patiently(session: Session, progress: Progress, *, created: bool) -> None:
    """Open a session, however long its container takes to come up: a first pull of its image takes minutes.

    Args:
        session: it has its machine.
        progress: shows how long it takes.
        created: it was created here: whoever stops now ends it.

    Raises:
        RunStopped: interrupted. As ``Session.open``.
    """
    try:
        wait_for("its container", session.open, progress, math.inf)
    except KeyboardInterrupt:
        if not created:
            raise
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
