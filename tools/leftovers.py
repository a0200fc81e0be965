"""What a test run left behind: processes, their ports, and entries in its temporary folder and home."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The environment variable that marks every process which a test run starts, directly or not.
MARK = "SKYRL_TEST_RUN"
#: How long processes that were told to end may take, in seconds.
GRACE_S = 10.0
#: The sandboxes' turns at starting Ray: the machine's, so the file stays, here where it cannot lie elsewhere.
_MACHINE_LOCK = "skyrl_loopback-*.lock"
#: What no test may make in its home: state of a local backend that is not its own, settings. (A cache may stay.)
_OURS_IN_HOME = (".local/share/skyrl_magic", ".config/skyrl_magic", ".modal.toml")


def find(mark: str, scratch: Path) -> list[str]:
    """Name everything that is left of the test run, one line each.

    Args:
        mark: the value of :data:`MARK` in the run's environment.
        scratch: the run's folder, which holds its ``tmp`` and ``home``.
    """
    return [*_processes(mark, scratch), *_entries(scratch)]


def _processes(mark: str, scratch: Path) -> list[str]:
    deadline = time.monotonic() + GRACE_S
    while (left := list(_living(mark, scratch))) and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.5)
    return [_describe(process) for process in left]


def _living(mark: str, scratch: Path) -> Iterator[psutil.Process]:
    """Processes with the mark, or (a sandbox has an environment of its own) with a root or a file in the folder."""
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            marked = process.environ().get(MARK) == mark
            inside = any(str(scratch) in text for text in (*process.cmdline(), process.cwd(), _root_of(process)))
            alive = process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError):
            continue  # It ended meanwhile, or belongs to another user.
        if alive and (marked or inside):
            yield process


def _root_of(process: psutil.Process) -> str:
    return str(Path(f"/proc/{process.pid}/root").readlink())


def _describe(process: psutil.Process) -> str:
    try:
        ports = [c.laddr.port for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
        words = " ".join(process.cmdline())[:160]
    except psutil.Error:
        return f"process {process.pid}"
    return f"process {process.pid}: {words}" + (f" (listens on {ports})" if ports else "")


def _entries(scratch: Path) -> list[str]:
    entries = [path for path in (scratch / "tmp").iterdir() if not path.match(_MACHINE_LOCK)]
    entries += [path for name in _OURS_IN_HOME if (path := scratch / "home" / name).exists()]
    return [f"{'folder' if path.is_dir() else 'file'} {path.relative_to(scratch)}" for path in entries]
