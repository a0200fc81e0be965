"""The control group of one sandbox, which bounds its processes and, where that was asked for, its memory.

Version 1 or 2, where this account may make one: that is root, as a rule. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
#: How groups of ours begin.
PREFIX = "skyrl_loopback-"
#: Processes and threads that a sandbox may have: so many, and so many more a CPU.
TASKS, TASKS_PER_CPU = 8192, 512
_REMOVE_S = 1.0


class Group:
    """A sandbox's group. ``problem`` says in one line why it bounds nothing, and is empty where it does."""

    def __init__(self, sandbox_id: str, memory_bytes: int) -> None:
        """Make it; ``memory_bytes`` is 0 for no bound."""
        self.problem = ""
        self._folders: list[Path] = []
        limits = {"pids": {"pids.max": TASKS + TASKS_PER_CPU * (os.cpu_count() or 1)}}
        if memory_bytes:
            limits["memory"] = {"memory.limit_in_bytes" if not _is_v2() else "memory.max": memory_bytes}
        try:
            for controller, values in limits.items():
                folder = _place(controller) / f"{PREFIX}{sandbox_id}"
                if folder not in self._folders:
                    folder.mkdir()
                    self._folders.append(folder)
                for name, value in values.items():
                    (folder / name).write_text(str(value), "ascii")
        except OSError as error:
            self.remove()
            self.problem = f"its processes and its memory have no bound of their own here: {error}"

    def add(self, pid: int) -> None:
        """Let a process, and all that it will start, belong to it."""
        for folder in self._folders:
            with contextlib.suppress(OSError):  # it has ended already
                (folder / "cgroup.procs").write_text(str(pid), "ascii")

    def remove(self) -> None:
        """Remove it, once its processes are gone; what cannot be removed is left."""
        deadline_s = time.monotonic() + _REMOVE_S
        for folder in self._folders:
            while folder.is_dir():
                try:
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > deadline_s:
                        break
                    time.sleep(0.02)
        self._folders = []


def of(pid: int) -> list[str]:
    """The files to which a process writes ``0`` to belong to the groups of this one, as far as they are ours."""
    with contextlib.suppress(OSError):
        rows = [line.split(":", 2) for line in Path("/proc", str(pid), "cgroup").read_text("utf-8").splitlines()]
        ours = [(controllers, path) for _, controllers, path in rows if Path(path).name.startswith(PREFIX)]
        return [f"{ROOT}/{controllers}{path}/cgroup.procs" for controllers, path in ours]
    return []


def _is_v2() -> bool:
    return (ROOT / "cgroup.controllers").is_file()


def _place(controller: str) -> Path:
    """Where groups with this controller can be made."""
    if _is_v2():
        # A group with processes has none below it: not our own, but one beside all others.
        place = ROOT / "skyrl_loopback"
        place.mkdir(exist_ok=True)
        (place / "cgroup.subtree_control").write_text("+pids +memory", "ascii")
        return place
    for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == controller:
            return ROOT / controller / path.lstrip("/")
    raise FileNotFoundError(f"there is no control group for {controller}")
