"""The creation of a sandbox, which waits for its machine and can be given up meanwhile.

Modal's client makes a sandbox with a GPU in two steps: the server answers with an id, and then the client asks every
moment whether there is a task, for up to 21 minutes. Only then does it hand the sandbox out. When that call is
cancelled, it ends the sandbox whose id it has; one whose creation was not answered yet may still come into being, and
is looked for by its name.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any

import modal
import modal.exception
from modal._utils.async_utils import synchronizer

from skyrl_magic.core.cancel import Cancel
from skyrl_magic.core.errors import BackendError, NotFound, SessionLost
from skyrl_magic.core.ports import Sandbox

#: For how long after it was given up a sandbox may come into being, and how often it is looked for. In seconds.
LATE_S = 10.0
_LOOK_S = 0.5
#: A call of modal's client is left alone for so long, in seconds: its first steps are coroutines that warn where they
#: are cancelled before they begin.
_BEGUN_S = 0.2


async def _ask_for_task(sandbox: Any) -> bool:
    try:
        # No public call says it without waiting for the task.
        await sandbox._get_task_id(raise_if_task_complete=True, timeout=0)  # noqa: SLF001
    except modal.exception.TimeoutError:
        return False
    except modal.exception.ConflictError:  # it has ended before it had one, as its next exec will say
        return True
    return True


#: Whether the sandbox has a task, that is a machine; where it has, its next exec need not ask for it.
has_task: Callable[[modal.Sandbox], bool] = synchronizer.create_blocking(_ask_for_task, "has_task", __name__)


def result_of(cancel: Cancel, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a blocking call of modal's client returns.

    Raises:
        Cancelled: it was given up meanwhile.
    """
    began_s = time.monotonic()
    under_way: Future[Any] = call(*arguments, **options, _future=True)

    def give_up() -> None:
        left_s = began_s + _BEGUN_S - time.monotonic()
        if left_s > 0:
            threading.Timer(left_s, under_way.cancel).start()
        else:
            under_way.cancel()

    cancel.on_set(give_up)
    try:
        return under_way.result()
    except CancelledError:
        cancel.check()
        raise


def create_sandbox(cancel: Cancel, *command: str, **options: Any) -> modal.Sandbox:
    """``modal.Sandbox.create``, until it has its machine.

    Raises:
        Cancelled: it was given up; :func:`end_late` ends what may be left.
        SessionLost: somebody ended it while it waited.
    """
    try:
        sandbox: modal.Sandbox = result_of(cancel, modal.Sandbox.create, *command, **options)
    except modal.exception.ConflictError as error:
        text = str(error) or "it was ended"
        raise SessionLost(f"session {options['name']} was stopped while it waited for its machine ({text})") from error
    return sandbox


def end_late(find: Callable[[], Sandbox | None], tags: Mapping[str, str]) -> None:
    """End the sandbox of a creation that was given up: now, and where it comes into being or is heard of later.

    Args:
        find: the living sandbox of its name.
        tags: what it was to have; one that has others is somebody else's.

    Raises:
        BackendError: the server does not say whether there is one.
    """
    ended = False
    try:
        ended = _end(find, tags)
    finally:
        if not ended:
            threading.Thread(target=_watch, args=(find, tags), name="skyrl-late", daemon=True).start()


def _end(find: Callable[[], Sandbox | None], tags: Mapping[str, str]) -> bool:
    with contextlib.suppress(NotFound, SessionLost):  # it has ended by itself
        sandbox = find()
        if sandbox is not None and sandbox.tags() == tags:
            sandbox.terminate()
            return True
    return False


def _watch(find: Callable[[], Sandbox | None], tags: Mapping[str, str]) -> None:
    until_s = time.monotonic() + LATE_S
    while time.monotonic() < until_s:
        time.sleep(_LOOK_S)
        with contextlib.suppress(BackendError):
            if _end(find, tags):
                return
