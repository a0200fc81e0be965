"""Commits of the volume, one at a time: by ``sync`` on its folder, or through the container's mailbox."""

from __future__ import annotations

import contextlib
import os
import selectors
from pathlib import Path
from typing import Callable, List

from skyrl_magic.agent import procs
from skyrl_magic.agent.mailbox import find_mailbox

#: How often the volume is committed while something runs, in seconds.
INTERVAL_S = 5.0
_MAX_MESSAGE_BYTES = 4096

Callback = Callable[[str], None]


class Committer:
    """Commits the volume. A commit that is asked for while one runs begins after it, and serves all askers.

    Args:
        volume_dir: the folder; where it does not exist there is nothing to commit.
        selector: where answers are awaited.
    """

    def __init__(self, volume_dir: Path, selector: selectors.BaseSelector) -> None:
        self._volume_dir = volume_dir
        self._mailbox = find_mailbox(volume_dir, selector, self._finish)
        self._pid = 0
        self._stderr = -1
        self._served: List[Callback] = []
        self._waiting: List[Callback] = []

    @property
    def busy(self) -> bool:
        """Whether a commit is under way."""
        return bool(self._served)

    def request(self, done: Callback) -> None:
        """Commit what is written up to now; ``done`` gets an empty string or one line that says what failed."""
        if self.busy:
            self._waiting.append(done)
        elif not self._volume_dir.is_dir():
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
        for done in served:
            done(line)
        if self._waiting and not self.busy:
            self._served, self._waiting = self._waiting, []
            self._start()
