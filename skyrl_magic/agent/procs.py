"""Process trees: who descends from whom, and signals to all of them."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_PR_SET_PDEATHSIG = 1
#: In :func:`stat_fields`: when the process began, in ticks since the boot.
STARTED = 19
#: After so many walks of a tree that keeps forking the rest is left to the next signal.
_MAX_WALKS = 20

_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> bool:
    """Adopt every orphan below this process (``setsid``, double forks). False where the kernel refuses."""
    return int(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0


def die_with_parent() -> None:
    """End this process when the thread that started it ends, however that comes about."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def stat_fields(pid: "int | str") -> List[bytes]:
    """What ``/proc`` says of a process, from its state on (``man proc_pid_stat``: field 3). Raises OSError."""
    # pid (name, may hold anything) state ppid …
    return Path("/proc", str(pid), "stat").read_bytes().rpartition(b") ")[2].split()


def descendants(root: int) -> List[int]:
    """The ids of all processes below ``root`` that are not dead yet, parents first."""
    return [process.pid for process in _tree(root)]


class _Process(NamedTuple):
    """A process below a root."""

    pid: int
    parent: int
    group: int


def _tree(root: int) -> List[_Process]:
    """All processes below ``root`` that are not dead yet, parents first."""
    children: Dict[int, List[_Process]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  (names are all that is needed)
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                state, parent, group = stat_fields(name)[:3]
                below = children.setdefault(int(parent), [])
                if state not in (b"Z", b"X"):
                    below.append(_Process(int(name), int(parent), int(group)))
    found: List[_Process] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += [process.pid for process in below]
    return found


def started_since(root: int, since_boot_s: float) -> List[int]:
    """The ids of the processes below ``root`` that began then or later, by CLOCK_BOOTTIME in seconds."""
    since_ticks = int(since_boot_s * os.sysconf("SC_CLK_TCK"))
    found = []
    for pid in descendants(root):
        with contextlib.suppress(OSError, IndexError):
            if int(stat_fields(pid)[STARTED]) >= since_ticks:
                found.append(pid)
    return found


def name_of(pid: int) -> str:
    """A process's name, at most 15 characters of it; empty where it has ended."""
    with contextlib.suppress(OSError):
        return Path("/proc", str(pid), "comm").read_text("utf-8", "replace").rstrip("\n")
    return ""


def kill_tree(root: int) -> None:
    """SIGKILL to every process below ``root``, also to those forked meanwhile."""
    reached: Set[int] = set()
    for _ in range(_MAX_WALKS):
        fresh = [pid for pid in descendants(root) if pid not in reached]
        if not fresh:
            break
        reached.update(fresh)
        for pid in fresh:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def signal_tree(root: int, number: int) -> None:
    """Send a signal that can be handled once to every process below ``root``, and to nothing that a handler starts.

    A trap that cleans up starts ``rm`` and ``cp``, which must not get the signal as well. So whole process groups get
    it, as from a terminal: the kernel lets no fork slip through there (``copy_process`` begins again where a signal is
    pending), and who is in such a group and did not get it was started after it. Groups that came meanwhile get it too,
    unless a process made them that has had it and lives.
    """
    reached: Set[int] = set()
    later: Set[int] = set()
    groups: Set[int] = set()
    for _ in range(_MAX_WALKS):
        fresh: List[_Process] = []
        for process in _tree(root):
            if process.pid in reached:
                continue
            if process.group in groups or process.parent in reached or process.parent in later:
                later.add(process.pid)
            else:
                fresh.append(process)
        if not fresh:
            break
        reached.update(process.pid for process in fresh)
        groups.update(process.group for process in fresh)
        for group in {process.group for process in fresh}:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)


def which(name: str, path: Optional[str] = None) -> Optional[str]:
    """The program of this name on ``path`` (this process's PATH); ``shutil`` would load compressors along."""
    for folder in (os.environ.get("PATH", os.defpath) if path is None else path).split(os.pathsep):
        program = os.path.join(folder, name)  # noqa: PTH118
        if os.path.isfile(program) and os.access(program, os.X_OK):  # noqa: PTH113
            return program
    return None


def default_signals() -> None:
    """Undo this process's handlers: what a forked child, and what it executes, should start with."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def close_all_but(keep: Iterable[int]) -> None:
    """In a forked child, close every descriptor from 3 on except ``keep``."""
    kept = {0, 1, 2, *keep}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        fd = int(name)
        if fd not in kept:
            with contextlib.suppress(OSError):
                os.close(fd)


def in_child(work: Callable[[], int]) -> int:
    """What ``work`` returns, done in a forked child: what it imports and allocates does not stay in this process.

    The caller must be single-threaded.

    Raises:
        OSError: it failed; the child has printed its traceback.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            gc.disable()  # the parent's sockets must not be collected here
            default_signals()
            os.write(write_end, str(work()).encode())
            code = 0
        except Exception:  # noqa: BLE001  (a forked child has nobody above it that could report)
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    os.close(write_end)
    answer = os.read(read_end, 64)
    os.close(read_end)
    os.waitpid(pid, 0)
    if not answer:
        raise OSError("the work of a child process failed")
    return int(answer)


def fork_for(work: Callable[[], None], keep: Iterable[int]) -> int:
    """Fork a child that does ``work`` and ends, with no descriptor but those of ``keep``; its process id.

    The caller must be single-threaded, and reaps it.

    Raises:
        OSError: there can be no further process.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            gc.disable()  # the parent's sockets must not be collected here: their numbers may be in use again
            default_signals()
            close_all_but(keep)
            work()
            code = 0
        except Exception:  # noqa: BLE001  (a forked child has nobody above it that could report)
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    return pid


def exit_code(wait_status: int) -> int:
    """A shell's exit code for a status of ``waitpid``: 128 + n where signal n ended the process."""
    if os.WIFSIGNALED(wait_status):
        return 128 + os.WTERMSIG(wait_status)
    return os.WEXITSTATUS(wait_status)


def reap() -> Iterator[Tuple[int, int]]:
    """Take the children that have ended: pid and wait status of each."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status
