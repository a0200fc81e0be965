"""Which process trees below the supervisor compute: CPU time between two looks at ``/proc``."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Set

from skyrl_magic.agent import procs

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: Ray names its workers after what they do.
RAY = "ray::"
#: Those that have nothing to do or move objects to disk, and Ray's own helpers. (Ray 2.60)
_NO_WORK = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")


class Process(NamedTuple):
    """A process at one look."""

    parent: int
    ticks: int
    """CPU time of it and of its children that have ended."""
    started: int


def processes() -> Dict[int, Process]:
    """All that live now."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  (names are all that is needed)
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = procs.stat_fields(name)
                found[int(name)] = Process(int(fields[1]), sum(map(int, fields[11:15])), int(fields[procs.STARTED]))
    return found


def title(pid: int) -> str:
    """A process's command as it shows itself; empty where it has ended."""
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]
        return command.decode("utf-8", "replace").strip()
    return ""


class CpuUse:
    """How much the trees below some processes compute.

    Args:
        clock: monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._before: Optional[Dict[int, Process]] = None
        self._before_at = 0.0

    def forget(self) -> None:
        """The next look is a first one."""
        self._before = None

    def look(self) -> Dict[int, float]:
        """Cores used since the look before, by the roots that matter; none at a first look.

        A root is a Ray worker that has something to do, or a child of this process; a worker's use does not count for
        what is above it.
        """
        now, current = self._clock(), processes()
        before, since_s = self._before, now - self._before_at
        self._before, self._before_at = current, now
        if before is None or since_s <= 0:
            return {}
        ours = os.getpid()
        workers = {pid for pid in current if is_ray_work(pid)}
        used: Dict[int, float] = {}
        for pid, process in current.items():
            root = _root(pid, current, workers, ours)
            if root is not None:
                was = before.get(pid)
                ticks = process.ticks - (was.ticks if was is not None and was.started == process.started else 0)
                used[root] = used.get(root, 0.0) + ticks / _TICKS_PER_S / since_s
        return used


def is_ray_work(pid: int) -> bool:
    """Whether the process is a worker of Ray's that has something to do."""
    name = title(pid)
    return name.startswith(RAY) and not name.startswith(_NO_WORK)


def _root(pid: int, current: Dict[int, Process], workers: Set[int], ours: int) -> Optional[int]:
    """The nearest of the process and those above it that is a Ray worker, or else our child; None of a foreign one."""
    path: List[int] = []
    while pid in current and pid not in path:
        path.append(pid)
        pid = current[pid].parent
        if pid == ours:
            return next((above for above in path if above in workers), path[-1])
    return None
