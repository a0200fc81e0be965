"""How a sandbox ended, in Modal's terms."""

from __future__ import annotations

from modal_proto import api_pb2

from skyrl_magic.loopback.runtime.sandbox import Sandbox

#: What a sandbox whose machine was taken away says of its end.
PREEMPTED = "the sandbox was preempted"
_Status = api_pb2.GenericResult


def result_of(sandbox: Sandbox) -> api_pb2.GenericResult | None:
    """How the sandbox ended; None while it lives."""
    end = sandbox.exit
    if end is None:
        return None
    if end.reason == "terminated" and sandbox.told_end is not None:
        name, message = sandbox.told_end
        status = _Status.GenericStatus.Value(f"GENERIC_STATUS_{name}")
        return api_pb2.GenericResult(status=status, exitcode=137, exception=message)
    if end.reason == "timeout":
        return api_pb2.GenericResult(status=_Status.GENERIC_STATUS_TIMEOUT, exitcode=124)
    if end.reason == "broken":
        return api_pb2.GenericResult(status=_Status.GENERIC_STATUS_INIT_FAILURE, exitcode=1, exception=end.error)
    if end.reason in ("terminated", "preempted", "lost"):
        error = PREEMPTED if end.reason == "preempted" else end.error
        return api_pb2.GenericResult(status=_Status.GENERIC_STATUS_TERMINATED, exitcode=137, exception=error)
    success = _Status.GENERIC_STATUS_SUCCESS if end.returncode == 0 else _Status.GENERIC_STATUS_FAILURE
    return api_pb2.GenericResult(status=success, exitcode=end.returncode, exception=end.error)
