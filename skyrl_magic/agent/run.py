"""One run as the supervisor keeps it: what it is, where it stands, and how that is told."""

from __future__ import annotations

import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Optional, Tuple, Union

from skyrl_magic.agent import journal
from skyrl_magic.agent.shim import End, RunSpec
from skyrl_magic.core import protocol

WAITING = "waiting"
RUNNING = "running"
ENDED = "ended"
#: Between waiting and running, and as good as running to the outside: its shim has it and bash is about to start.
LAUNCHED = "launched"
_NOTEBOOK_CHARS = 64
_MAX_NOTEBOOKS = 16
_NO_ENV: Dict[str, str] = {}


@dataclass(frozen=True)
class PythonCell:
    """How the kernel runs a cell: as in ``core.protocol.StartRun``."""

    workdir: str
    uv: str
    allow_stdin: bool


@dataclass
class Run:
    """One run. Times are Unix times and durations in seconds."""

    spec: RunSpec
    command: str
    state: str = WAITING
    started_at: float = 0.0
    duration_s: float = 0.0
    exit_code: Optional[int] = None
    signal: int = 0
    journal_error: str = ""
    archive_error: str = ""
    """What of its log is not kept on the volume, and why; empty where all is."""
    reason: str = ""
    """Why the session ended it; empty where the session did not."""
    control: Optional[socket.socket] = None
    """To its shim, from its launch to its end."""
    cell: Optional[PythonCell] = None
    """What concerns a Python cell alone."""
    heard: bytes = b""
    """What came from its shim so far."""
    cancelled: str = ""
    """The name of the last signal by which somebody wanted to end it."""
    seen: Dict[str, Tuple[int, int, int]] = field(default_factory=dict)
    """How far which notebook has shown it, as in ``core.protocol.Seen``."""
    notebook: str = ""
    """Whose it is, as in ``core.protocol.StartRun``."""
    behind: str = ""
    """The run whose cell the Python kernel executed when this one was handed to it."""

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.spec.run_id

    def see(self, notebook: str, bytes_shown: Tuple[int, int, int]) -> None:
        """Note how far a notebook has shown it; the notebooks that looked last are kept.

        Its client has several writers: what an earlier one had to say may come after the later one's.
        """
        name = sys.intern(notebook[:_NOTEBOOK_CHARS])
        out, err, outputs = self.seen.pop(name, (0, 0, 0))
        self.seen[name] = (max(out, bytes_shown[0]), max(err, bytes_shown[1]), max(outputs, bytes_shown[2]))
        while len(self.seen) > _MAX_NOTEBOOKS:
            del self.seen[next(iter(self.seen))]

    def take_end(self, end: Union[End, protocol.ExecuteEnded]) -> None:
        """Take over how its shim, or the kernel's relay, says that it ended."""
        self.exit_code, self.signal = end.exit_code, end.signal
        self.duration_s, self.journal_error = end.duration_s, end.journal_error

    def shrink(self) -> None:
        """It is over: forget what nobody asks for any more, as a session may have thousands of runs."""
        self.heard = b""
        self.spec = self.spec._replace(workdir="", env=_NO_ENV)

    @property
    def folder(self) -> Path:
        """Where its journal lies."""
        return Path(self.spec.folder)

    def summary(self) -> protocol.RunSummary:
        """What a list shows."""
        state = RUNNING if self.state == LAUNCHED else self.state
        duration = time.time() - self.started_at if state == RUNNING else self.duration_s
        out, err, outputs = journal.sizes(self.folder)
        kind = protocol.SHELL if self.cell is None else protocol.PYTHON
        return protocol.RunSummary(
            self.run_id,
            state,
            self.command,
            self.started_at,
            duration,
            self.exit_code,
            out,
            err,
            kind,
            outputs,
            {name: list(shown) for name, shown in self.seen.items()},
            self.cancelled,
            self.archive_error,
            self.notebook,
            self.reason,
        )

    def event(self) -> Optional[protocol.Message]:
        """The frame that tells a watcher where the run stands; None in a moment that another frame will end."""
        if self.state == WAITING:
            return protocol.RunWaiting(self.run_id, protocol.FOR_RAY)
        if self.state == LAUNCHED and self.behind:
            return protocol.RunWaiting(self.run_id, self.behind)
        if self.state == RUNNING:
            return protocol.RunStarted(self.run_id, self.started_at)
        if self.state != ENDED:
            return None
        out, err, _ = journal.sizes(self.folder)
        code = self.exit_code or 0
        return protocol.RunEnded(
            self.run_id,
            code,
            self.signal,
            self.started_at,
            self.duration_s,
            out,
            err,
            self.reason,
            self.journal_error,
            self.cancelled,
            self.archive_error,
        )
