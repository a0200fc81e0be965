"""What one notebook knows: its services, its current session and its last run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

from skyrl_magic.core.options import Given
from skyrl_magic.core.spec import SessionSpec
from skyrl_magic.service.checkout import Checkout
from skyrl_magic.service.runs import RunService
from skyrl_magic.service.session import Session
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.service.sessions import SessionService
from skyrl_magic.ui.background import RunHandle


@dataclass
class Services:
    """The use cases that the magics call."""

    sessions: SessionService
    runs: RunService
    auto_backend: Callable[[], str]

    def close(self) -> None:
        """Close the channels; sessions go on."""
        self.sessions.close()


def notebook_key(folder: Path) -> str:
    """What stands for this notebook in its sessions, also after a restart of its kernel; no path can be read from it.

    Jupyter Server names the notebook in ``JPY_SESSION_NAME``; elsewhere the folder stands for it.
    """
    name = os.environ.get("JPY_SESSION_NAME") or str(folder)
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]


@dataclass
class Notebook:
    """The state that lies between cells."""

    config: Given = field(default_factory=Given)
    """``%config`` as it was when the current session was chosen."""
    current: SessionRequest | None = None
    """What the current session was asked for: a cell without session options goes there."""
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
    def own_runs(self) -> list[str]:
        """The ids of the runs that this kernel has started, newest first."""
        return [run_id for run_id in reversed(self.runs) if run_id not in self.attached]

    def once(self, note: str) -> bool:
        """True the first time for each note."""
        new = note not in self.told
        self.told.add(note)
        return new


def request_for(
    spec: SessionSpec, checkout: Checkout | None, idle_timeout_s: int, name: str | None, said: Given
) -> SessionRequest:
    """The session that a line asks for; one of the given name only needs to have what was ``said``."""
    asked = None if name is None else frozenset(f.name for f in fields(said) if getattr(said, f.name) is not None)
    return SessionRequest(spec, checkout, idle_timeout_s, name, asked)
