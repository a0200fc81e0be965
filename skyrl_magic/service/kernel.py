"""The session's Python kernel, beside its cells: completion, inspection, its widgets' messages, a restart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import SessionError
from skyrl_magic.service.session import Session

#: A start of the kernel: ipykernel takes a second, ``uv run`` may build an environment first. In seconds.
RESTART_TIMEOUT_S = 900.0


def ask_kernel(session: Session, msg_type: str, content: Mapping[str, Any], timeout_s: float) -> dict[str, Any] | None:
    """The content of the kernel's answer to a Jupyter request; None where there is none in time.

    Args:
        session: a session; without a kernel the answer is None too.
        msg_type: ``complete_request``, ``inspect_request``, …
        content: of the request.
        timeout_s: how long to wait.
    """
    try:
        reply = session.channel.request(
            lambda number: protocol.KernelRequest(number, msg_type, dict(content)), protocol.KernelReply, timeout_s
        )
    except SessionError:
        return None
    return reply.content if isinstance(reply.content, dict) else None


def send_to_comm(session: Session, message: protocol.KernelMessage) -> None:
    """Send a message to a comm of the kernel; what it answers carries the same ``run_id``. Raises SessionError."""
    session.channel.send(message)


def ensure_kernel(session: Session, uv: str) -> None:
    """Start a kernel where there is none. Raises SessionError, also where another one runs than ``uv`` asks for."""
    session.channel.request(
        lambda number: protocol.RestartKernel(number, uv, keep=True), protocol.Done, timeout_s=RESTART_TIMEOUT_S
    )


def restart_kernel(session: Session, uv: str) -> None:
    """End the kernel with its variables and start another one. Raises SessionError."""
    session.channel.request(
        lambda number: protocol.RestartKernel(number, uv), protocol.Done, timeout_s=RESTART_TIMEOUT_S
    )
