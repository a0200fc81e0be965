"""The session as a whole: greeting, signs of life, answers to any request, its state and its end."""

from __future__ import annotations

import dataclasses
from typing import List, Optional

from skyrl_magic.core.protocol.codec import VERSION, Message, frame

#: In the line of the main process's own output that says why the session ends; the reason follows.
SESSION_ENDS = "the session ends: "
#: The code of :class:`Failed` for a run that comes when the session is about to end.
STOPPING = "stopping"
#: How a line of it begins that says that processes were killed because the container's memory was full.
OUT_OF_MEMORY = "out of memory"


@frame(1)
@dataclasses.dataclass(frozen=True)
class Hello(Message):
    """First frame of a client; answered by :class:`Welcome`."""

    version: int = VERSION
    client_id: str = ""


@frame(64)
@dataclasses.dataclass(frozen=True)
class Welcome(Message):
    """Answer to :class:`Hello`."""

    version: int = VERSION
    agent_hash: str = ""
    """SHA-256 of the agent's zipapp: tells a newer client that the warm session runs an older agent."""
    session: str = ""
    workdir: str = ""
    spec: str = ""
    """What the session was started with, as the client that started it wrote it (``core.session_tags``)."""


@frame(2)
@dataclasses.dataclass(frozen=True)
class Ping(Message):
    """Keeps the client attached (every 5 s; ``attach`` leaves after 30 s without one). Answered by :class:`Pong`."""

    number: int = 0


@frame(65)
@dataclasses.dataclass(frozen=True)
class Pong(Message):
    """Answer to :class:`Ping` with its number."""

    number: int = 0


@frame(66)
@dataclasses.dataclass(frozen=True)
class Done(Message):
    """The request was carried out."""

    request: int = 0


@frame(67)
@dataclasses.dataclass(frozen=True)
class Failed(Message):
    """The request was refused. ``code`` is for programs (``stale``, ``unknown_run``, …), ``message`` for people."""

    request: int = 0
    code: str = ""
    message: str = ""


@frame(12)
@dataclasses.dataclass(frozen=True)
class Configure(Message):
    """Change a live session. ``None`` leaves a value as it is. Answered by :class:`Done`."""

    request: int = 0
    idle_timeout_s: Optional[float] = None
    max_usd: Optional[float] = None
    """The budget that ends it."""
    usd_per_hour: Optional[float] = None
    """What an hour costs, counted from the session's start."""
    timeout_s: Optional[float] = None
    """When it ends, from its start. Sessions before 0.12 do not know this field: see :attr:`Status.timeout_s`."""


@frame(27)
@dataclasses.dataclass(frozen=True)
class CommitVolume(Message):
    """Commit what was written up to now, so that it can be read outside. Answered by :class:`Done` when that is done.

    Else by :class:`Failed` with the code ``commit``. A volume of version 1 cannot be committed: there the answer comes
    at once and means nothing (:attr:`Status.volume_version`).
    """

    request: int = 0


@frame(28)
@dataclasses.dataclass(frozen=True)
class RestartRay(Message):
    """Start Ray again, or again after all: what is left of it is ended, kernels and runs go on.

    Answered by :class:`Done` when that has begun (:class:`Status` says how it gets on), or by :class:`Failed` with the
    code ``no_ray`` in a session that has none.
    """

    request: int = 0


@frame(13)
@dataclasses.dataclass(frozen=True)
class GetStatus(Message):
    """Answered by :class:`Status`."""

    request: int = 0


@frame(76)
@dataclasses.dataclass(frozen=True)
class Status(Message):
    """A session's state. ``ray`` is ``off``, ``starting``, ``ready`` or ``failed``."""

    request: int = 0
    ray: str = "off"
    ray_seconds: float = 0.0
    """How long Ray took to start, or has been starting."""
    ray_detail: str = ""
    """Why it did not start, or has ended, where it failed."""
    ray_problem: str = ""
    """The same as it is told in a :class:`Notice`, with what to do."""
    boot_seconds: float = 0.0
    active_runs: List[str] = dataclasses.field(default_factory=list)
    idle_s: float = 0.0
    idle_timeout_s: float = 0.0
    clients: int = 0
    kernel: str = "off"
    """The Python kernel: ``off``, ``starting`` or ``ready``."""
    busy_with: str = ""
    """What goes on without a run, and so keeps the session from being idle: the GPU, Ray, the Python kernel."""
    timeout_in_s: float = 0.0
    """Until the timeout ends the session; 0 where it has none."""
    timeout_s: float = 0.0
    """Its timeout, from its start; 0 from sessions of earlier versions, whose timeout cannot be changed."""
    usd_per_hour: float = 0.0
    """What an hour costs at the present use; 0 where no price is known."""
    spent_usd: float = 0.0
    """Since its start."""
    max_usd: float = 0.0
    """The budget; 0 for none."""
    earlier: str = ""
    """Why the session of this name before it had ended; empty where nothing is known of one."""
    earlier_s: float = 0.0
    """How long before this one's start; 0 where nobody knows."""
    volume_version: int = 2
    """Modal's version of the volume's file system; one of version 1 is committed in the background alone."""
    uncommitted: bool = False
    """Something that runs have written is being committed, or is about to be."""


@frame(90)
@dataclasses.dataclass(frozen=True)
class Notice(Message):
    """One line that everybody who is attached, or comes later, should be shown once.

    ``about`` is the same for the same warning, whose words change as time passes.
    """

    about: str = ""
    text: str = ""


@frame(14)
@dataclasses.dataclass(frozen=True)
class StopSession(Message):
    """End the container: runs are stopped, journals flushed, the volume committed. Answered by :class:`Done` first."""

    request: int = 0
    by: str = ""
    """Who asks, for the others who are attached."""
