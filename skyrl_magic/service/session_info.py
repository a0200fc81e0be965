"""What is known of a running session without being its user: a row of ``%skyrl_sessions``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from skyrl_magic.core import protocol
from skyrl_magic.core.ports import Sandbox
from skyrl_magic.core.protocol.durations import duration_text
from skyrl_magic.core.session_tags import SessionTags
from skyrl_magic.core.spec import SessionSpec
from skyrl_magic.service.commits import IN_BACKGROUND
from skyrl_magic.service.connection import Timing
from skyrl_magic.service.found import session_in
from skyrl_magic.service.session import Session
from skyrl_magic.service.session_request import Place

#: How patient the table is with each session.
QUICK = Timing(attach_timeout_s=10.0, reopen_pauses_s=())
#: The state of a session whose agent does not answer.
SILENT = "not answering"
#: The state of a session that waits for its machine.
QUEUED = "queued"

_COMMITS = ", its volume is being committed"

T = TypeVar("T")


@dataclass(frozen=True)
class SessionInfo:
    """A row of ``%skyrl_sessions``."""

    name: str
    backend: str
    app: str
    gpu: str
    age_s: float
    timeout_s: float
    """From its start; 0 where nobody said it."""
    ends_in_s: float | None
    """None where nobody knows. Until its timeout, or until its idle timeout where that comes first."""
    ends_idle: bool
    """It is the idle timeout that comes first: any use puts it off."""
    repo: str
    state: str
    """``idle 42 s``, ``2 runs``, what goes on without a run, :data:`QUEUED` or :data:`SILENT`."""
    ends_spent: bool = False
    """It is the budget that comes first, at the present use."""
    usd_per_hour: float = 0.0
    """0 where no price is known."""
    spent_usd: float = 0.0
    late_volume: str = ""
    """Its volume, where Modal alone commits that, some time after a change; empty for one that is committed at once."""

    @property
    def place(self) -> tuple[str, str, str]:
        """Backend, app and name, which identify it."""
        return self.backend, self.app, self.name


def ask_status(tags: SessionTags, sandbox: Sandbox, backend: str) -> tuple[protocol.Status, SessionSpec]:
    """What a session that is not open says of itself, and what it was started with. Raises SessionError."""
    return asked(tags, sandbox, backend, lambda session: (session.status, session.spec))


def asked(tags: SessionTags, sandbox: Sandbox, backend: str, question: Callable[[Session], T]) -> T:
    """What a session that is not open answers; it is left again. Raises SessionError."""
    session = session_in(tags, sandbox, backend, QUICK)
    try:
        session.open()
        return question(session)
    finally:
        session.close()


def session_info(
    tags: SessionTags, place: Place, spec: SessionSpec | None, status: protocol.Status | None, *, queued: bool = False
) -> SessionInfo:
    """A row from the container's tags, its spec and what its agent said; None for what nobody said."""
    backend, app, name = place
    age_s = max(0.0, time.time() - tags.started_at)
    ends = _ends(status)
    first = min(ends, key=ends.__getitem__, default="")
    return SessionInfo(
        name=name,
        backend=backend,
        app=app,
        gpu="?" if spec is None else str(spec.gpu),
        age_s=age_s,
        timeout_s=0.0 if status is None else status.timeout_s,
        ends_in_s=ends.get(first),
        ends_idle=first == "idle",
        repo="" if spec is None else spec.repo,
        state=QUEUED if queued else SILENT if status is None else _state(status),
        ends_spent=first == "budget",
        usd_per_hour=0.0 if status is None else status.usd_per_hour,
        spent_usd=0.0 if status is None else status.spent_usd,
        late_volume="" if spec is None or status is None or status.volume_version > IN_BACKGROUND else spec.volume,
    )


def _ends(status: protocol.Status | None) -> dict[str, float]:
    """What will end the session, and in how many seconds, by the container's own clock; empty where nobody says it."""
    ends: dict[str, float] = {}
    if status is None:
        return ends
    if status.timeout_in_s:
        ends["timeout"] = status.timeout_in_s
    if not status.active_runs:
        ends["idle"] = max(0.0, status.idle_timeout_s - status.idle_s)
    if status.max_usd and status.usd_per_hour:
        left_s = (status.max_usd - status.spent_usd) / status.usd_per_hour * 3600
        if math.isfinite(left_s):  # else the price is next to nothing
            ends["budget"] = max(0.0, left_s)
    return ends


def _state(status: protocol.Status) -> str:
    runs = len(status.active_runs)
    if runs:
        return f"{runs} run{'s' * (runs > 1)}"
    return status.busy_with or f"idle {duration_text(int(status.idle_s))}" + _COMMITS * status.uncommitted
