"""Commits of the volume, one at a time: by ``sync`` on its folder, or through the container's mailbox.

No run's end waits for one. It is asked for shortly after, once for runs in a row; who needs what was written waits for
:meth:`Committer.request`.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import time
from pathlib import Path
from typing import Callable, List

from skyrl_magic.agent import procs
from skyrl_magic.agent.mailbox import find_mailbox

#: How often the volume is committed while something runs, in seconds.
INTERVAL_S = 5.0
#: A commit begins so long after a run's end: out of the way of the end itself, and of the next cell of a notebook that
#: runs them all. So long after the first end at the latest. In seconds.
AFTER_END_S = 0.02
LATEST_S = 0.5
#: A commit that has not ended for so long keeps the session no more from being idle: it may never end. In seconds.
HANGS_S = 300.0
_MAX_MESSAGE_BYTES = 4096

Callback = Callable[[str], None]


def failure_text(line: str) -> str:
    """What everybody is told of a commit that failed; ``line`` is its own."""
    return f"{line}; the next run's end commits again"


class Committer:
    """Commits the volume. A commit that is asked for while one runs begins after it, and serves all askers.

    Args:
        volume_dir: the folder; where it does not exist there is nothing to commit.
        selector: where answers are awaited.
        failed: hears of each commit that failed, in one line, and what stands for it: the same while nothing has ended
            or was committed since.
        on_demand: whether the volume can be committed at all: Modal does it by itself on one of version 1, in the
            background and at the container's end, and there alone (FACTS of the service: docs/modal_limits.md).
    """

    def __init__(
        self,
        volume_dir: Path,
        selector: selectors.BaseSelector,
        failed: Callable[[str, str], None] = lambda _, __: None,
        *,
        on_demand: bool = True,
    ) -> None:
        self._volume_dir = volume_dir
        self._on_demand = on_demand
        self._failed = failed
        self._mailbox = find_mailbox(volume_dir, selector, self._finish) if on_demand else None
        self._pid = 0
        self._stderr = -1
        self._served: List[Callback] = []
        self._waiting: List[Callback] = []
        self._began_at = 0.0
        self._due_at = self._latest_at = math.inf
        self._epoch = 0
        self.standing = ""
        """Why the last commit failed; empty where it did not."""

    @property
    def busy(self) -> bool:
        """Whether a commit is under way."""
        return bool(self._served)

    @property
    def outstanding(self) -> bool:
        """Whether something that a run has written is not committed yet, and will be."""
        return self.busy or self._due_at < math.inf

    def keeps(self, now: float) -> bool:
        """Whether the session must not end for being idle: a commit is outstanding, and does not hang."""
        return self.outstanding and now < self.hangs_at

    @property
    def hangs_at(self) -> float:
        """When the commit under way counts as one that hangs, by the monotonic clock."""
        return self._began_at + HANGS_S if self.busy else math.inf

    @property
    def next_at(self) -> float:
        """When :meth:`turn` has something to do, by the monotonic clock."""
        return math.inf if self.busy else self._due_at

    @property
    def about(self) -> str:
        """What stands for the last failure in a notice: each is to be shown once."""
        return f"commit {self._epoch}"

    def soon(self, now: float) -> None:
        """A run has ended: commit what it wrote, shortly."""
        self._epoch += 1
        if self._on_demand:
            self._latest_at = min(self._latest_at, now + LATEST_S)
            self._due_at = min(now + AFTER_END_S, self._latest_at)

    def turn(self, now: float) -> None:
        """Begin a commit that is due."""
        if now >= self.next_at:
            self.request(lambda _: None)

    def request(self, done: Callback) -> None:
        """Commit what is written up to now; ``done`` gets an empty string or one line that says what failed.

        Where the volume cannot be committed on demand nothing is done, and that is no failure.
        """
        self._due_at = self._latest_at = math.inf
        if self.busy:
            self._waiting.append(done)
        elif not self._on_demand or not self._volume_dir.is_dir():
            done("")
        else:
            self._served = [done]
            self._start()

    def reaped(self, pid: int, status: int) -> bool:
        """Take the end of process ``pid`` if it is the commit's."""
        if pid != self._pid:
            return False
        self._pid = 0
        message = b""
        with contextlib.suppress(OSError):  # a handful of lines at most, which fit into the pipe
            message = os.read(self._stderr, _MAX_MESSAGE_BYTES)
        os.close(self._stderr)
        code = procs.exit_code(status)
        first_line = message.decode("utf-8", "replace").split("\n")[0].strip()
        self._finish("" if code == 0 else first_line or f"sync ended with {code}")
        return True

    def _start(self) -> None:
        self._began_at = time.monotonic()
        if self._mailbox is None:
            self._run_sync()
            return
        try:
            self._mailbox.ask()
        except OSError as error:
            self._finish(error.strerror or "nobody reads the mailbox")

    def _run_sync(self) -> None:
        self._stderr, write_end = os.pipe()
        os.set_blocking(self._stderr, False)
        command = ["sync", str(self._volume_dir)]
        failure = ""
        try:
            actions = [(os.POSIX_SPAWN_DUP2, write_end, 2)]
            self._pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
        except OSError as error:
            os.close(self._stderr)
            failure = f"sync: {error.strerror}"
        finally:
            os.close(write_end)
        if failure:
            self._finish(failure)

    def _finish(self, error: str) -> None:
        served, self._served = self._served, []
        line = f"the volume could not be committed: {error}" if error else ""
        self._epoch += bool(self.standing and not line)
        self.standing = line
        if line:
            self._failed(self.about, line)
        for done in served:
            done(line)
        if self._waiting and not self.busy:
            self._served, self._waiting = self._waiting, []
            self._start()
