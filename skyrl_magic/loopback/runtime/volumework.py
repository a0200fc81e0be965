"""A thread that commits and reloads a sandbox's volumes, so that its keeper keeps deadlines meanwhile."""

from __future__ import annotations

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

from skyrl_magic.loopback.pretend import LOOK_S, Pretend
from skyrl_magic.loopback.runtime.spec import Folder, KeeperSpec

if TYPE_CHECKING:
    from skyrl_magic.loopback.runtime.mounted import MountedVolumes


class Job(NamedTuple):
    """What to do, and whom to tell."""

    receiver: Any
    paths: Sequence[str] | None = None
    """Commit the volumes on which these lie; all if None."""
    reload_for: int = 0
    """Reload instead, for the sandbox with this first process."""


class VolumeWork:
    """Does one job after the other. ``wake`` becomes readable when there are results."""

    def __init__(self, folder: Folder, spec: KeeperSpec) -> None:
        self._folder = folder
        self._spec = spec
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[Any, str]] = queue.SimpleQueue()
        self.wake, self.wake_write = os.pipe()
        """The second is for others who want to wake the reader: the signal handlers."""
        os.set_blocking(self.wake, False)
        os.set_blocking(self.wake_write, False)
        self._thread = threading.Thread(target=self._run, name="volumes")
        has_v1 = any(mount.is_v1 and not mount.read_only for mount in spec.volumes)
        self._lag_s = spec.commit_lag_s if has_v1 else math.inf
        self._background_error = ""
        self._pretend = Pretend(Path(spec.state_root))
        self._ending = threading.Event()

    def start(self) -> None:
        """Begin, after everything that must not wait for the imports."""
        self._thread.start()

    def put(self, job: Job) -> None:
        """Have it done."""
        self._jobs.put(job)

    def results(self) -> Iterator[tuple[Any, str]]:
        """Receivers and errors (empty where it worked) of the jobs that are done."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake, 4096)
        while not self._results.empty():
            yield self._results.get()

    def finish(self) -> str:
        """Do what is left and commit for the last time; return the error, or an empty string."""
        last = Job(receiver=self)
        self._ending.set()
        self._jobs.put(last)
        self._jobs.put(None)
        self._thread.join()
        return next((error for receiver, error in self.results() if receiver is self), "")

    def commit_again(self) -> str:
        """Commit after :meth:`finish`; return the error, or an empty string."""
        return _error_of(self._mounted().commit)

    def _mounted(self) -> MountedVolumes:
        from skyrl_magic.loopback.runtime.mounted import MountedVolumes

        return MountedVolumes(self._folder, Path(self._spec.state_root), self._spec.volumes)

    def _run(self) -> None:
        volumes = self._mounted()
        due_s = time.monotonic() + self._lag_s
        while True:
            try:
                left_s = due_s - time.monotonic()
                job = self._jobs.get(timeout=None if left_s == math.inf else max(0.0, left_s))
            except queue.Empty:
                self._note(_error_of(volumes.commit_v1))
                due_s = time.monotonic() + self._lag_s
                continue
            if job is None:
                return
            if job.reload_for:
                error = _error_of(functools.partial(volumes.reload, job.reload_for))
            else:
                if job.paths is not None:
                    self._pretend_to_work()
                error = _error_of(functools.partial(volumes.commit, job.paths))
            self._results.put((job.receiver, error))
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
