"""How long a commit may go on and how much it may store: whose files it commits has no say in when it ends.

Standard library only.
"""

from __future__ import annotations

import math
import threading
import time

#: How many paths that were left out are named.
_NAMED_COUNT = 5


class CommitStoppedError(OSError):
    """A commit was ended before it was done; nothing was committed. ``str()`` says why in one line."""


class TooLateError(CommitStoppedError):
    """Its time is over."""


class CommitLimits:
    """The bounds of one commit. Another thread may stop it."""

    def __init__(self, seconds: float = math.inf, size_bytes: float = math.inf) -> None:
        self._seconds = seconds
        self._deadline_s = time.monotonic() + seconds
        self._left_bytes = size_bytes
        self._stopped = threading.Event()
        self._left_out: list[str] = []
        self._left_out_count = 0

    def stop(self) -> None:
        """Let the commit end as soon as it can, without an effect."""
        self._stopped.set()

    def check(self) -> None:
        """Go on, or not.

        Raises:
            CommitStoppedError: The commit was stopped.
            TooLateError: Its time is over.
        """
        if self._stopped.is_set():
            raise CommitStoppedError("the commit was stopped, as the sandbox ends")
        if time.monotonic() > self._deadline_s:
            raise TooLateError(f"the commit was not done within {self._seconds:.0f} s")

    def takes(self, path: str, size_bytes: int) -> bool:
        """Whether there is room and time for a file of this size, which counts from now on; else it is left out."""
        if size_bytes > self._left_bytes or time.monotonic() > self._deadline_s:
            self.leave_out(path)
            return False
        self._left_bytes -= size_bytes
        return True

    def leave_out(self, path: str) -> None:
        """The file is not committed."""
        self._left_out_count += 1
        if len(self._left_out) < _NAMED_COUNT:
            self._left_out.append(path)

    @property
    def left_out(self) -> str:
        """What was not committed, in one line; empty where all was."""
        if not self._left_out_count:
            return ""
        names = ", ".join(ascii(name) for name in self._left_out)
        more = self._left_out_count - len(self._left_out)
        return names if not more else f"{names} and {more:,} more"


#: For commits that somebody waits for.
UNLIMITED = CommitLimits()
