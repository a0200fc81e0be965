"""How a container ended, as its backend tells it, and what is said of that."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from skyrl_magic.core import protocol

#: Exit codes of a main process that got SIGKILL, as a shell and as ``subprocess`` say it. They do not say from whom.
_KILLED = (137, -9)


class How(enum.Enum):
    """What ended a container."""

    EXITED = "its main process ended"
    TIMED_OUT = "its hard timeout was over"
    TERMINATED = "it was ended from outside"
    PREEMPTED = "it was preempted: its machine was taken away"
    EVICTED = "it was evicted: the memory of the machine that it shared was full"
    OUT_OF_MEMORY = "its own memory was full: a larger --memory gives it more"
    IDLE = "the backend found it idle"
    NOT_STARTED = "it could not start"
    BACKEND_FAILED = "its backend failed"


#: What to do, where the reason does not say it.
_ADVICE = {
    How.NOT_STARTED: ": run the cell again, and choose another --image if it says the same",
    How.BACKEND_FAILED: ": run the cell again",
}
#: Where the backend knows better than what the container was told, which is only that it is to end.
_TOLD_BY_BACKEND = frozenset((How.PREEMPTED, How.EVICTED, How.OUT_OF_MEMORY))


@dataclass(frozen=True)
class End:
    """How a container ended."""

    how: How
    code: int
    """The exit code of its main process, or what the backend gives in its place (124, 137)."""
    detail: str = ""
    """What the backend says beside it; may be empty."""


def end_reason(end: End, output: str, *, preemptible: bool = False) -> str:
    """Why a container has ended: in the words of its agent, else what its backend and its last line of output say.

    Args:
        end: how it ended.
        output: the end of what its main process printed.
        preemptible: its backend may take its machine away, and may tell it as any other end from outside.
    """
    lines = output.strip().splitlines()
    own = next((reason for line in reversed(lines) if (reason := _agents_reason(line))), "")
    if own and end.how not in _TOLD_BY_BACKEND:
        return own
    detail = f" ({end.detail})" if end.detail else ""
    if end.how is not How.EXITED:
        preempted = ", or preempted" if preemptible and end.how is How.TERMINATED else ""
        return f"{end.how.value}{preempted}{detail}{_ADVICE.get(end.how, '')}"
    if end.code in _KILLED:
        if any(line.startswith(f"skyrl_magic: {protocol.OUT_OF_MEMORY}") for line in lines):
            return f"{protocol.OUT_OF_MEMORY} (exit code {end.code})"
        return "it was killed (SIGKILL)" if end.code < 0 else f"it was killed (exit code {end.code})"
    return f"exit code {end.code}" + (f": {lines[-1]}" if lines else detail)


def _agents_reason(line: str) -> str:
    before, found, reason = line.partition(protocol.SESSION_ENDS)
    return reason if found and before.strip() == "skyrl_magic:" else ""
