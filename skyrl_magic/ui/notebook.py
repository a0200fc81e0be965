"""What one notebook knows: its services, its current session and its last run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from skyrl_magic.core.options import Given
from skyrl_magic.service.runs import RunService
from skyrl_magic.service.session import Session
from skyrl_magic.service.session_request import Place, SessionRequest
from skyrl_magic.service.sessions import SessionService
from skyrl_magic.ui.background import RunHandle
from skyrl_magic.ui.this_notebook import notebook_key


@dataclass
class Services:
    """The use cases that the magics call."""

    sessions: SessionService
    runs: RunService
    auto_backend: Callable[[], str]

    def close(self) -> None:
        """Close the channels; sessions go on."""
        self.sessions.close()


@dataclass
class Notebook:
    """The state that lies between cells."""

    key: str = field(default_factory=notebook_key)
    """Stands for it in its sessions."""
    config: Given = field(default_factory=Given)
    """``%config`` as it was when the current session was chosen: a change counts as if the next cell named it."""
    used: dict[Place, SessionRequest] = field(default_factory=dict)
    """What the sessions that this notebook has named or started were asked for, by their last use."""
    containers: dict[Place, str] = field(default_factory=dict)
    """The ids of their containers: one of the same name with another id is not the session that this notebook had."""
    runs: dict[str, Session] = field(default_factory=dict)
    """The sessions of the runs that this kernel has started or attached to, by run id."""
    attached: set[str] = field(default_factory=set)
    """Those of them that were started elsewhere."""
    background: dict[str, RunHandle] = field(default_factory=dict)
    """This notebook's runs in the background by run id."""
    seen: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """The bytes of stdout, stderr and outputs up to which this kernel has shown a run, by run id."""
    told: set[str] = field(default_factory=set)
    """Notes that were shown once and need not be repeated."""

    @property
    def current(self) -> SessionRequest | None:
        """The current session: the one that this notebook has named or started last (``service.session_choice``)."""
        return next(reversed(self.used.values()), None)

    def enter(self, request: SessionRequest, config: Given, container: str) -> None:
        """Make a session, whose container has this id, the current one."""
        self.containers[request.place] = container
        self.used.pop(request.place, None)
        self.used[request.place] = request
        self.config = config

    @property
    def own_runs(self) -> list[str]:
        """The ids of the runs that this kernel has started, newest first."""
        return [run_id for run_id in reversed(self.runs) if run_id not in self.attached]

    def once(self, note: str) -> bool:
        """True the first time for each note."""
        new = note not in self.told
        self.told.add(note)
        return new
