"""Runs: how one is started, signalled and listed, and how it gets on."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List, Optional

from skyrl_magic.core.protocol.codec import Message, frame

#: What runs a cell: a new bash, or the session's Python kernel.
SHELL = "shell"
PYTHON = "python"
#: Why a run waits, where it is not for another one.
FOR_RAY = "ray"


@frame(3)
@dataclasses.dataclass(frozen=True)
class StartRun(Message):
    """Start ``payload`` (a shell cell or a Python cell, unchanged) as run ``run_id``.

    A shell cell that begins with ``#!`` is executed by the interpreter that it names, another one by bash.

    Idempotent: a ``run_id`` that exists is not started again, so it can be re-sent after a cut channel.
    Answered by :class:`Done` or :class:`Failed`; the run is watched separately.
    """

    request: int = 0
    run_id: str = ""
    workdir: str = ""
    """Absolute, or relative to the checkout's working directory; empty for that directory itself."""
    env: Dict[str, str] = dataclasses.field(default_factory=dict)
    errexit: bool = False
    generation: int = -1
    """The checkout that the run is meant for: with another one it is refused as ``stale``; -1 takes any."""
    kind: str = SHELL
    """``shell`` or ``python``; the rest concerns Python alone."""
    uv: str = ""
    """Options of ``uv run`` for a kernel in the project's environment; empty for the one that runs the cluster."""
    allow_stdin: bool = False
    """The client can answer ``input()``."""
    max_runs: int = 0
    """With so many runs going on the start is refused as ``busy``; 0 takes any number."""
    notebook: str = ""
    """Stands for the notebook that starts it, as in :class:`Seen`."""
    stdin: str = ""
    """The client's blob that a shell run reads as its stdin, and that is gone for the client then; empty for none."""
    payload: bytes = b""


@frame(6)
@dataclasses.dataclass(frozen=True)
class SignalRun(Message):
    """Send signal number ``signal`` to every process of the run. Answered by :class:`Done` or :class:`Failed`."""

    request: int = 0
    run_id: str = ""
    signal: int = 0


@frame(22)
@dataclasses.dataclass(frozen=True)
class EndRun(Message):
    """End the run for good: SIGINT, SIGTERM and SIGKILL to all its processes, with ``grace_s`` between them.

    The agent sees to it, whether or not the client is still there. Asked again, the next signal goes at once. A Python
    run gets no other signal by time: its kernel has variables, and only what is asked again ends it. Answered by
    :class:`Done` or :class:`Failed`.
    """

    request: int = 0
    run_id: str = ""
    grace_s: float = 5.0


@frame(23)
@dataclasses.dataclass(frozen=True)
class Seen(Message):
    """The client's notebook has shown the run's streams up to these bytes; the agent keeps it for who attaches later.

    Not answered.
    """

    run_id: str = ""
    notebook: str = ""
    stdout: int = 0
    stderr: int = 0
    outputs: int = 0


@frame(68)
@dataclasses.dataclass(frozen=True)
class RunWaiting(Message):
    """The run is accepted and waits: for Ray, or for the Python kernel, which executes the cell of run ``reason``."""

    run_id: str = ""
    reason: str = ""
    """:data:`FOR_RAY`, or the other run's id."""


@frame(69)
@dataclasses.dataclass(frozen=True)
class RunStarted(Message):
    """The run's process is alive."""

    run_id: str = ""
    started_at: float = 0.0
    """Unix time in seconds, by the container's clock."""


@frame(72)
@dataclasses.dataclass(frozen=True)
class RunEnded(Message):
    """The run is over and all its output was sent. What it wrote to the volume is committed shortly after.

    ``exit_code`` is bash's (128 + n where a signal n ended it). ``reason`` says why the session ended the run, and is
    empty for a run that ended by itself or by a client's signal. ``journal_error`` says what of its output could not be
    kept, and why. ``cancelled`` is the name of the last signal that :class:`EndRun` has sent, or empty.
    """

    run_id: str = ""
    exit_code: int = 0
    signal: int = 0
    started_at: float = 0.0
    duration_s: float = 0.0
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    reason: str = ""
    journal_error: str = ""
    cancelled: str = ""
    """The name of the last signal that somebody had sent to it; empty where nobody asked for its end."""
    archive_error: str = ""
    """What of its log is known not to be kept on the volume, and why."""


@frame(8)
@dataclasses.dataclass(frozen=True)
class ListRuns(Message):
    """Answered by :class:`RunList`. ``first`` is the place of the first run that is wanted; the oldest one's is 0."""

    request: int = 0
    first: int = 0


@frame(74)
@dataclasses.dataclass(frozen=True)
class RunList(Message):
    """Answer to :class:`ListRuns`, oldest first; an item has the fields of :class:`RunSummary`.

    Of many runs it has some, and ``more`` is set: neither side has to hold all of them at once.
    """

    request: int = 0
    runs: List[Dict[str, Any]] = dataclasses.field(default_factory=list)
    more: bool = False


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """One run in :class:`RunList`. ``state`` is ``waiting``, ``running`` or ``ended``."""

    run_id: str
    state: str
    command: str
    """The cell's first line, at most 200 characters."""
    started_at: float = 0.0
    duration_s: float = 0.0
    exit_code: Optional[int] = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    kind: str = SHELL
    outputs_bytes: int = 0
    seen: Dict[str, List[int]] = dataclasses.field(default_factory=dict)
    """By notebook: how many bytes of stdout, stderr and outputs it has shown (see :class:`Seen`)."""
    cancelled: str = ""
    """As in :class:`RunEnded`."""
    archive_error: str = ""
    """As in :class:`RunEnded`."""
    notebook: str = ""
    """As in :class:`StartRun`."""
    reason: str = ""
    """As in :class:`RunEnded`; of a Python run also why its kernel ended."""
