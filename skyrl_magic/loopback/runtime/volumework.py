"""A thread that commits and reloads a sandbox's volumes, so that its keeper keeps deadlines meanwhile."""

from __future__ import annotations

import collections
import contextlib
import functools
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from skyrl_magic.loopback.commit_limits import CommitLimits
from skyrl_magic.loopback.pretend import LOOK_S, Pretend
from skyrl_magic.loopback.runtime.spec import Folder, KeeperSpec, is_below

if TYPE_CHECKING:
    from skyrl_magic.loopback.runtime.mounted import LastCommit, MountedVolumes

#: So many processes of the sandbox may wait for a commit at once; others are refused.
MAX_WAITING = 256
#: How much longer than its bound the end's commit is waited for, in seconds: it looks at the time between two blocks.
_PATIENCE_S = 60.0


class Job(NamedTuple):
    """What to do, and whom to tell."""

    receiver: Any
    indexes: frozenset[int] = frozenset()
    """The volumes to commit."""
    reload_for: int = 0
    """Reload instead, for the sandbox with this first process."""
    inside: bool = False
    """Whether a process of the sandbox asks."""


class VolumeWork:
    """Does one job after the other. ``wake`` becomes readable when there are results.

    Commits that are asked for while another one goes on are done as one: who asks often waits no shorter, and nobody
    else waits for him.
    """

    def __init__(self, folder: Folder, spec: KeeperSpec) -> None:
        self._folder = folder
        self._spec = spec
        self.all = frozenset(range(len(spec.volumes)))
        """All volumes."""
        self._changed = threading.Condition()
        self._commits: dict[Any, Job] = {}
        self._reloads: collections.deque[Job] = collections.deque()
        self._limits = CommitLimits()
        """Of the job under way."""
        self._results: queue.SimpleQueue[tuple[Any, str]] = queue.SimpleQueue()
        self.wake, self.wake_write = os.pipe()
        """The second is for others who want to wake the reader: the signal handlers."""
        os.set_blocking(self.wake, False)
        os.set_blocking(self.wake_write, False)
        # A daemon: where it hangs, the keeper ends all the same.
        self._thread = threading.Thread(target=self._run, name="volumes", daemon=True)
        has_v1 = any(mount.is_v1 and not mount.read_only for mount in spec.volumes)
        self._lag_s = spec.commit_lag_s if has_v1 else math.inf
        self._background_error = ""
        self._pretend = Pretend(Path(spec.state_root))
        self._ending = threading.Event()
        self._last: LastCommit | None = None

    def start(self) -> None:
        """Begin, after everything that must not wait for the imports."""
        self._thread.start()

    def holding(self, paths: Sequence[str]) -> frozenset[int]:
        """The volumes of version 2 on which these paths of the sandbox lie."""
        mounts = [(index, mount) for index, mount in enumerate(self._spec.volumes) if not mount.is_v1]
        return frozenset(index for index, mount in mounts if any(is_below(path, mount) for path in paths))

    def put(self, job: Job) -> None:
        """Have it done."""
        with self._changed:
            if job.reload_for:
                self._reloads.append(job)
            elif job.inside and len(self._commits) >= MAX_WAITING and job.receiver not in self._commits:
                self._tell(job.receiver, "too many commits are asked for at once")
            else:
                before = self._commits.get(job.receiver)
                self._commits[job.receiver] = job._replace(indexes=job.indexes | before.indexes) if before else job
            self._changed.notify()

    def results(self) -> Iterator[tuple[Any, str]]:
        """Receivers and errors (empty where it worked) of the jobs that are done."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake, 4096)
        while not self._results.empty():
            yield self._results.get()

    def finish(self) -> LastCommit:
        """Stop what goes on and commit for the last time, in a bounded time."""
        from skyrl_magic.loopback.runtime.mounted import LAST_COMMIT_S, LastCommit

        with self._changed:
            self._ending.set()
            self._limits.stop()
            self._changed.notify()
        self._thread.join(LAST_COMMIT_S + _PATIENCE_S)
        return self._last or LastCommit("the last commit did not end", "")

    def commit_again(self) -> LastCommit:
        """Commit after :meth:`finish`."""
        return self._mounted().commit_last() if not self._thread.is_alive() else self.finish()

    def _mounted(self) -> MountedVolumes:
        from skyrl_magic.loopback.runtime.mounted import MountedVolumes

        return MountedVolumes(self._folder, Path(self._spec.state_root), self._spec.volumes)

    def _run(self) -> None:
        volumes = self._mounted()
        due_s = time.monotonic() + self._lag_s
        while True:
            jobs = self._next(due_s)
            if self._ending.is_set():
                self._last = volumes.commit_last()
                return
            limits = self._limits
            if not jobs:
                self._note(_error_of(functools.partial(volumes.commit_v1, limits)))
                due_s = time.monotonic() + self._lag_s
                continue
            if jobs[0].reload_for:
                reload = functools.partial(volumes.reload, jobs[0].reload_for, limits)
                self._tell(jobs[0].receiver, _error_of(reload))
            else:
                self._commit(volumes, jobs, limits)

    def _next(self, due_s: float) -> list[Job]:
        """One reload, or all commits that wait; none where the background's is due, or the sandbox ends."""
        with self._changed:
            while not self._ending.is_set() and not self._commits and not self._reloads:
                left_s = due_s - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(None if left_s == math.inf else left_s)
            self._limits = CommitLimits()
            if time.monotonic() >= due_s:  # also while others never cease to ask
                return []
            if self._reloads:
                return [self._reloads.popleft()]
            jobs = list(self._commits.values())
            self._commits.clear()
            return jobs

    def _commit(self, volumes: MountedVolumes, jobs: Sequence[Job], limits: CommitLimits) -> None:
        if any(job.inside for job in jobs):
            self._pretend_to_work()
        indexes = sorted({index for job in jobs for index in job.indexes})
        errors = {index: _error_of(functools.partial(volumes.commit, index, limits)) for index in indexes}
        for job in jobs:
            self._tell(job.receiver, next((errors[index] for index in sorted(job.indexes) if errors[index]), ""))

    def _tell(self, receiver: Any, error: str) -> None:
        self._results.put((receiver, error))
        with contextlib.suppress(BlockingIOError):  # else the reader has enough to wake up for
            os.write(self.wake_write, b"\0")

    def _pretend_to_work(self) -> None:
        """Take as long as it is told to, until the sandbox ends."""
        began_s = time.monotonic()
        while time.monotonic() - began_s < self._pretend.commit_delay_s() and not self._ending.wait(LOOK_S):
            pass

    def _note(self, error: str) -> None:
        """Write a background commit's error into the keeper's log: nobody asked for it, so nobody waits to hear it."""
        if error and error != self._background_error:
            sys.stderr.write(f"the background commit failed: {error}\n")
            sys.stderr.flush()
        self._background_error = error


def _error_of(work: Callable[[], None]) -> str:
    """Do it; return why it failed in one line, or an empty string."""
    try:
        work()
    except Exception as failure:  # noqa: BLE001 - whatever it is, the one who asked must hear of it
        return str(failure).replace("\n", " ") or type(failure).__name__
    return ""
