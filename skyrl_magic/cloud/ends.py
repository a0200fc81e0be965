"""How a sandbox ended, by the status of its result. Its exit code alone does not say it: 137 stands for many things."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import modal
from modal._utils.async_utils import synchronizer
from modal_proto import api_pb2

from skyrl_magic.core.ends import End, How

_STATUS = api_pb2.GenericResult
#: What a status means; one that is not here is a process that ended.
_HOW: dict[int, How] = {
    _STATUS.GENERIC_STATUS_TIMEOUT: How.TIMED_OUT,
    _STATUS.GENERIC_STATUS_TERMINATED: How.TERMINATED,
    _STATUS.GENERIC_STATUS_IDLE_TIMEOUT: How.IDLE,
    _STATUS.GENERIC_STATUS_MEMORY_MANAGER_EVICTION: How.EVICTED,
    _STATUS.GENERIC_STATUS_MEMORY_THRASHING_EVICTION: How.OUT_OF_MEMORY,
    _STATUS.GENERIC_STATUS_KERNEL_OOM_KILL: How.OUT_OF_MEMORY,
    _STATUS.GENERIC_STATUS_INIT_FAILURE: How.NOT_STARTED,
    _STATUS.GENERIC_STATUS_INTERNAL_FAILURE: How.BACKEND_FAILED,
}
#: Without a result there is only the code that the client makes of it.
_BY_CODE = {124: How.TIMED_OUT, 137: How.TERMINATED}


def end_of(sandbox: modal.Sandbox, code: int) -> End:
    """How a sandbox ended that a poll has just found to have ended with ``code``."""
    result = _result(sandbox)
    if result is None:
        return End(_BY_CODE.get(code, How.EXITED), code)
    how = _HOW.get(result.status, How.EXITED)
    detail = " ".join(result.exception.split())
    # No status stands for it (the protocol keeps the reasons of a termination to the server), so its text has to do.
    if how is How.TERMINATED and "preempt" in detail.lower():
        return End(How.PREEMPTED, code)
    return End(how, code, detail)


def _result(sandbox: modal.Sandbox) -> api_pb2.GenericResult | None:
    """The result that modal keeps; there is no public way to it. None where a later modal keeps it elsewhere."""
    translate: Callable[[object], Any] = synchronizer._translate_in  # noqa: SLF001
    inner = translate(sandbox)
    result = getattr(getattr(inner, "_impl", None), "result", None)
    return result if isinstance(result, api_pb2.GenericResult) else None
