"""Processes of the machine, seen through /proc. Standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")


def start_ticks(pid: int) -> int:
    """When the process started, in clock ticks since boot: with the pid it names a process for good.

    Raises:
        ProcessLookupError: There is no such process.
    """
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None
    # proc(5): the second field is the name in parentheses, which may hold anything; the 22nd is the start time.
    return int(text.rpartition(")")[2].split()[19])


def is_alive(pid: int, ticks: int) -> bool:
    """Whether the process that started then still runs; a zombie does not."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(text[19]) == ticks and text[0] not in "ZX"


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for this signal. The first process of a namespace ignores all others."""
    with contextlib.suppress(OSError):
        for line in (_PROC / str(pid) / "status").read_text("utf-8", "replace").splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def members(child_pid: int) -> Iterator[int]:
    """The processes in the pid namespace of this one."""
    try:
        namespace = (_PROC / str(child_pid) / "ns/pid").stat()
    except OSError:
        return
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if (entry / "ns/pid").stat().st_ino == namespace.st_ino:
                    yield int(entry.name)


def paths_in_use(child_pid: int) -> Iterator[str]:
    """The files and working directories that the processes of a sandbox have open, by their names in it."""
    for pid in members(child_pid):
        folder = _PROC / str(pid)
        links = [folder / "cwd"]
        with contextlib.suppress(OSError):
            links += (folder / "fd").iterdir()
        for link in links:
            with contextlib.suppress(OSError):
                # Not Path.readlink: " (deleted)" behind a name must stay as it is.
                yield os.readlink(link)  # noqa: PTH115
