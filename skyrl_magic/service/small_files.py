"""Small files: read where somebody else may have put them, and written whole, for their owner alone."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path


def read_small(path: Path, limit_bytes: int, *, owner: int | None = None) -> bytes:
    """The bytes of a file; a link, a pipe or a device is none.

    Args:
        path: of the file.
        limit_bytes: it has no more than this.
        owner: the user id that it belongs to; None for any.

    Raises:
        FileNotFoundError: it is not there. PermissionError: it cannot be read, or is another owner's.
        OSError: it is no regular file, or a larger one.
    """
    # Without O_NONBLOCK the opening of a pipe waits for who writes into it.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link, which is not followed") from None
        if error.errno == errno.ENXIO:
            raise OSError(errno.EINVAL, "it is no regular file") from None
        raise
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if owner is not None and info.st_uid != owner:
            raise PermissionError(errno.EPERM, "it belongs to another user")
        data = b""
        while len(data) <= limit_bytes and (part := os.read(descriptor, limit_bytes + 1 - len(data))):
            data += part
    finally:
        os.close(descriptor)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, f"it has more than {limit_bytes:,} bytes")
    return data


def written_beside(path: Path, text: str) -> Path:
    """A whole file beside ``path``, for its owner alone, to be put in its place. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # of mode 0600
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return Path(name)


def is_own(*paths: Path, also: int | None = None) -> bool:
    """Whether files and folders, and what links lead to, are this user's; ``also`` is another user id that counts."""
    if not hasattr(os, "geteuid"):
        return True
    owners = {os.geteuid(), also}
    try:
        return all(info.st_uid in owners for path in paths for info in (path.lstat(), path.stat()))
    except OSError:
        return False
