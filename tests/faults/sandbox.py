"""The suite's own sandboxes from outside: their agent's processes and disks, past everything that is tested."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

from skyrl_magic.loopback.daemon import ServerAddress
from tests.kernel.processes import supervisors_of


class Inside:
    """The one sandbox of a server that runs now."""

    def __init__(self, server: ServerAddress) -> None:
        [self.supervisor] = supervisors_of(server)

    @property
    def state(self) -> Path:
        """The agent's folder."""
        return Path(f"/proc/{self.supervisor.pid}/root/var/lib/skyrl_magic")

    def journal(self, run_id: str, stream: str = "stdout") -> bytes:
        """A stream of a run as it lies on the sandbox's disk."""
        return (self.state / "runs" / run_id / stream).read_bytes()

    def forks(self) -> list[psutil.Process]:
        """The first process, the supervisor that it forked, and that one's forks: the shims."""
        command = self.supervisor.cmdline()
        return [process for process in self.processes() if _command(process) == command]

    def processes(self) -> list[psutil.Process]:
        """All processes of the sandbox."""
        first = self.supervisor.parent()
        return [] if first is None else [first, *first.children(recursive=True)]


def memory_bytes(process: psutil.Process) -> int:
    """Its share of resident memory, as forks have most of theirs in common; 0 where it has just ended."""
    with suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0


def _command(process: psutil.Process) -> list[str]:
    """Its command; empty where it has just ended."""
    with suppress(psutil.Error):
        return process.cmdline()
    return []
