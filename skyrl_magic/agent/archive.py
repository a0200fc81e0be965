"""The runs' journals on the volume, where they can be read when the container is gone.

A pass copies what is new (``agent.archive_pass``), in a forked child and never two at once, so that no cell waits for
the volume: shortly after a run has ended, every few seconds while one goes on, and when the session ends. What it wrote
is committed after it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set

from skyrl_magic.agent import commits, procs
from skyrl_magic.agent.config import Config
from skyrl_magic.agent.run import ENDED, Run

#: A pass begins so long after a run's end, in seconds, or after the last one's of a quick succession: not between them.
AFTER_END_S = 0.5
#: The first look for what is to be pruned, after the boot, and the time between two looks. In seconds.
FIRST_PRUNE_S = 5.0
PRUNE_EVERY_S = 3600.0
_NICENESS = 10
_DAY_S = 24 * 3600.0
_GB = 1e9


class Archiver:
    """Keeps the archive of one session.

    Args:
        config: the session.
        runs: all its runs.
        commit: commits the volume.
    """

    def __init__(self, config: Config, runs: Callable[[], List[Run]], commit: Callable[[], None]) -> None:
        self._config = config
        self._runs = runs
        self._commit = commit
        self._started_at = time.time()
        self._key = f"{config.session}-{int(self._started_at)}"
        self._fresh: Dict[str, Run] = {}
        """Runs of which something may not be in the archive."""
        self._packed: Dict[str, str] = {}
        """As JSON: a session may have thousands of runs."""
        self._pruned: Set[str] = set()
        self._standing = ""
        """Why the last pass failed; empty where it worked."""
        self._due_at = math.inf
        self._first_due_at = math.inf
        self._prune_at = time.monotonic() + FIRST_PRUNE_S
        self._pid = 0
        self._answer = -1
        self._covered: List[Run] = []
        self._done: Callable[[bool], None] = lambda _: None
        self._end: Optional[Dict[str, Any]] = None

    @property
    def next_at(self) -> float:
        """When :meth:`turn` has something to do, by the monotonic clock."""
        return math.inf if self._pid else min(self._due_at, self._prune_at)

    def changed(self, run: Run) -> None:
        """A run was started or has ended."""
        if run.run_id not in self._fresh:
            self._fresh[run.run_id] = run
        if run.state == ENDED:
            now = time.monotonic()
            self._first_due_at = min(self._first_due_at, now)
            self._due_at = min(now + AFTER_END_S, self._first_due_at + commits.INTERVAL_S)
            if self._standing and not run.archive_error:
                run.archive_error = f"{self._standing}: the log of run {run.run_id} may not be kept there"

    def turn(self, now: float) -> None:
        """Begin a pass where one is due."""
        if now >= self.next_at:
            self.begin(self._commit_what_was_written)

    def begin(self, done: Callable[[bool], None]) -> bool:
        """Begin a pass; ``done`` hears whether it has written something. False where none can begin."""
        if self._pid:
            return False
        now = time.monotonic()
        prune = now >= self._prune_at
        self._due_at = self._first_due_at = math.inf
        self._prune_at = now + PRUNE_EVERY_S if prune else self._prune_at
        if not Path(self._config.volume_dir).is_dir():
            return False
        self._covered = [run for run in self._fresh.values() if run.state == ENDED]
        self._done = done
        try:
            self._answer = os.memfd_create("archive", os.MFD_CLOEXEC)
            self._pid = procs.fork_for(lambda: self._work(prune=prune), {self._answer})
        except OSError:  # no process is left
            self._forget_answer()
            self._due_at = now + commits.INTERVAL_S
            return False
        return True

    def finish(self, reason: str, done: Callable[[bool], None]) -> None:
        """The session ends: make the last pass, after the one under way, whose commit is the last one's."""
        self._end = {"ended_at": time.time(), "reason": reason}

        def last(_: bool) -> None:  # noqa: FBT001  (a pass says so)
            if not self.begin(done):
                done(False)

        if self._pid:
            self._done = last
        else:
            last(False)

    def give_up(self) -> None:
        """The pass under way takes too long: its process ends, and what is on the volume is whole."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def reaped(self, pid: int) -> bool:
        """Take the end of process ``pid`` if it is the pass's."""
        if not pid or pid != self._pid:
            return False
        self._pid = 0
        answer: Dict[str, Any] = {}
        with contextlib.suppress(ValueError):  # it was killed
            answer = json.loads(os.pread(self._answer, os.fstat(self._answer).st_size, 0))
        self._forget_answer()
        if answer:
            self._take(answer)
        self._done(bool(answer.get("wrote", True)))
        return True

    # --- inside ---

    def _take(self, answer: Dict[str, Any]) -> None:
        problems = answer["problems"]
        self._standing = answer["failure"]
        self._packed.update({run_id: json.dumps(packed) for run_id, packed in answer["packed"].items()})
        self._pruned.update(answer["pruned"])
        for run in list(self._fresh.values()):
            run.archive_error = problems.get(run.run_id, "")
        for run in self._covered:
            # A log that is not there for want of room may still come; one that is too long will not.
            if run.run_id in self._pruned or run.run_id not in problems or not self._standing:
                self._fresh.pop(run.run_id, None)

    def _commit_what_was_written(self, wrote: bool) -> None:  # noqa: FBT001  (a pass says so)
        if wrote:
            self._commit()

    def _forget_answer(self) -> None:
        if self._answer >= 0:
            os.close(self._answer)
            self._answer = -1

    def _work(self, *, prune: bool) -> None:
        """The pass, in its own process."""
        from skyrl_magic.agent.archive_pass import ArchivePass, Job

        if self._end is None:
            os.nice(_NICENESS)
        work = ArchivePass(Path(self._config.volume_dir), self._key, int(self._config.keep_runs_gb * _GB))
        for run in self._fresh.values():
            work.copy(Job(run.run_id, run.folder, run in self._covered))
        self._packed.update({run_id: json.dumps(packed) for run_id, packed in work.packed.items()})
        for run in self._fresh.values():
            run.archive_error = work.problems.get(run.run_id, "")
        catalog = self._catalog()
        if prune:
            self._prune(work, catalog)
        runs = [run for run in catalog["runs"] if run["run_id"] not in self._pruned]
        if runs:
            work.write_catalog(json.dumps({**catalog, "runs": runs}).encode())
        answer = {
            "wrote": work.wrote,
            "failure": work.failure,
            "problems": work.problems,
            "packed": work.packed,
            "pruned": list(self._pruned),
        }
        os.write(self._answer, json.dumps(answer).encode())

    def _prune(self, work: Any, catalog: Dict[str, Any]) -> None:
        from skyrl_magic.agent.prune import Keep, Pruning

        keep = Keep(self._config.keep_runs_days * _DAY_S, int(self._config.keep_runs_gb * _GB))
        pruning = Pruning(work.tree, self._key, catalog, time.time(), work.replace)
        pruning.prune(keep)
        self._pruned |= pruning.removed
        work.wrote |= pruning.changed

    def _catalog(self) -> Dict[str, Any]:
        end = {"ended_at": None, "reason": ""} if self._end is None else self._end
        return {
            "session": self._config.session,
            **self._config.about,
            "started_at": self._started_at,
            "timeout_s": self._config.hard_timeout_s or self._config.timeout_s,  # the other one can be raised
            **end,
            "runs": [self._entry(run) for run in self._runs() if run.run_id not in self._pruned],
        }

    def _entry(self, run: Run) -> Dict[str, Any]:
        entry = dataclasses.asdict(run.summary())
        del entry["seen"]  # of notebooks, and changes all the time
        if run.state != ENDED:
            entry["duration_s"] = 0.0
        packed = json.loads(self._packed.get(run.run_id, "null"))
        return {**entry, "reason": run.reason, "signal": run.signal, "packed": packed}
