"""A little of the container's disk, kept back for the moment in which a cell has filled it.

Without it the run that filled the disk could not say so, and none could be started that tidies up.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Callable, TypeVar

RESERVE_FILE = "reserve"
_RESERVE_BYTES = 4 * 1024 * 1024

T = TypeVar("T")


def keep(state_dir: Path) -> None:
    """Set the reserve aside, if it is not, and there is room for it."""
    path = state_dir / RESERVE_FILE
    with contextlib.suppress(FileExistsError, OSError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, _RESERVE_BYTES)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(fd)


def release(state_dir: Path) -> bool:
    """Give the reserve to whoever needs it now; whether there was one."""
    try:
        (state_dir / RESERVE_FILE).unlink()
    except OSError:
        return False
    return True


def with_reserve(state_dir: Path, action: Callable[[], T]) -> T:
    """Do what writes a little; on a full disk once more, with the reserve. Raises OSError."""
    try:
        return action()
    except OSError as error:
        if error.errno != errno.ENOSPC or not release(state_dir):
            raise
    return action()
