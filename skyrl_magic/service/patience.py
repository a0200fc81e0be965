"""Waiting for a server that may not be there: the user sees what is waited for, Stop works, and it ends."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from skyrl_magic.core.errors import BackendUnavailable
from skyrl_magic.core.protocol.durations import duration_text
from skyrl_magic.service.session import TICK_S, Progress

#: A server that answers so soon is not spoken of, and after so long it is given up. Modal's client alone tries for
#: 56 s to reach one that is not there, and the local one may take 30 s to start. In seconds.
QUIET_S = 2.0
GIVE_UP_S = 40.0

T = TypeVar("T")


def wait_for(server: str, action: Callable[[], T], progress: Progress, give_up_s: float | None = None) -> T:
    """What ``action`` returns or raises.

    It runs in a thread of its own, as nothing ends a call of modal's client; its value is lost when it comes too late.

    Args:
        server: who is asked, for the line that is shown while it does not answer.
        action: the question.
        progress: shows that line.
        give_up_s: :data:`GIVE_UP_S` where it is None.

    Raises:
        BackendUnavailable: there was no answer.
    """
    answer: Future[T] = Future()

    def ask() -> None:
        try:
            answer.set_result(action())
        except BaseException as error:  # noqa: BLE001  # the one who waits raises it
            answer.set_exception(error)

    limit_s = GIVE_UP_S if give_up_s is None else give_up_s
    began_s = time.monotonic()
    threading.Thread(target=ask, name="skyrl-ask", daemon=True).start()
    if concurrent.futures.wait([answer], min(QUIET_S, limit_s)).done:
        return answer.result()
    progress.begin(f"waiting for {server}")
    while not concurrent.futures.wait([answer], TICK_S).done:
        if time.monotonic() - began_s >= limit_s:
            raise BackendUnavailable(
                f"{server} did not answer in {duration_text(limit_s)}: check the network, then run it again"
            )
        progress.tick()
    return answer.result()
