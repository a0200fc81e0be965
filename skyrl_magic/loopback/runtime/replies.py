"""The pipes by which the keeper answers the ``sync`` of its sandbox. Standard library only.

Any process of the sandbox may ask as ``sync`` does: a line ``commit NAME PATH//PATH//…`` to the pipe of the requests,
where ``NAME`` is a pipe of its own in the control directory that begins with ``reply.``; it reads ``ok`` or
``failed REASON`` from there.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

from skyrl_magic.loopback.runtime.spec import COMMIT

#: Names of pipes for answers.
_NAME = re.compile(rb"reply\.[A-Za-z0-9._-]{1,100}")
#: So many calls at once find a pipe for their answer (``reply.N``); others make one. Who makes ``taken.N`` has it.
SLOTS = ("0", "1", "2", "3")


def parse(line: bytes) -> tuple[str, list[str]] | None:
    """The pipe's name and the paths of a line that asks for a commit; None for anything else."""
    word, name, paths = (*line.split(b" ", 2), b"", b"")[:3]
    if word != COMMIT.encode() or not _NAME.fullmatch(name):
        return None
    return name.decode("ascii"), [os.fsdecode(path) for path in paths.split(b"//") if path]


def free_slots(control: Path) -> None:
    """Make the pipes of all slots."""
    for slot in SLOTS:
        _free(control, slot)


def answer(fifo: Path, error: str) -> None:
    """Tell a waiting ``sync``; one that was killed meanwhile is no longer there to read."""
    with contextlib.suppress(OSError):
        # The sandbox can put anything there: only a pipe in which somebody waits is written.
        descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                os.write(descriptor, (f"failed {error}\n" if error else "ok\n").encode("utf-8", "replace"))
        finally:
            os.close(descriptor)
    slot = fifo.suffix[1:]
    if slot in SLOTS:
        _free(fifo.parent, slot)


def _free(control: Path, slot: str) -> None:
    """A new pipe, and only then a free slot: nobody may read the answer of who had it before."""
    fifo = control / f"reply.{slot}"
    with contextlib.suppress(OSError):  # the sandbox has put something else there: that slot stays taken
        fifo.unlink(missing_ok=True)
        os.mkfifo(fifo, 0o600)
        (control / f"taken.{slot}").unlink(missing_ok=True)
