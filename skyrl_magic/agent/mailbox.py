"""Commits without a process, where the container has a mailbox for them: the local server's has one.

A request is a line ``commit REPLY PATH//`` in the mailbox, a named pipe; the answer, ``ok`` or ``failed REASON``, comes
through the pipe ``REPLY`` beside it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
from pathlib import Path
from typing import Callable, Optional

#: Names the mailbox; without it the volume is committed by ``sync``, as on Modal.
VARIABLE = "SKYRL_COMMIT_MAILBOX"
_READ_BYTES = 4096


class Mailbox:
    """One commit at a time of one volume.

    Args:
        path: the mailbox.
        volume_dir: where the volume is mounted.
        selector: where answers are awaited.
        done: called with an empty string or the reason why a commit failed.
    """

    def __init__(
        self, path: Path, volume_dir: Path, selector: selectors.BaseSelector, done: Callable[[str], None]
    ) -> None:
        reply = path.with_name(f"reply.agent-{os.getpid()}")
        reply.unlink(missing_ok=True)
        os.mkfifo(reply, 0o600)
        self._done = done
        self._request = f"commit {reply.name} {os.path.realpath(volume_dir)}//\n".encode("utf-8", "surrogateescape")
        self._answer = b""
        self._requests = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        # For both, so that it is never at its end.
        self._replies = os.open(reply, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        selector.register(self._replies, selectors.EVENT_READ, self._answered)

    def ask(self) -> None:
        """Begin a commit. Raises ``OSError`` where nobody reads the mailbox."""
        os.write(self._requests, self._request)

    def _answered(self, mask: int) -> None:
        del mask  # it is readable
        with contextlib.suppress(BlockingIOError):
            self._answer += os.read(self._replies, _READ_BYTES)
        line, newline, rest = self._answer.partition(b"\n")
        if newline:
            self._answer = rest
            status, _, reason = line.decode("utf-8", "replace").partition(" ")
            self._done("" if status == "ok" else reason or status)


def find_mailbox(volume_dir: Path, selector: selectors.BaseSelector, done: Callable[[str], None]) -> Optional[Mailbox]:
    """The container's mailbox, or None where it has none that can be used."""
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    try:
        return Mailbox(Path(path), volume_dir, selector, done)
    except OSError:
        return None
