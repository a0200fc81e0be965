"""What a sandbox sees as /etc: a copy of what every user of this machine may read.

Not the folder itself with its secrets (``shadow``, ``sudoers``, private keys) covered: a file that is replaced on the
machine loses what covers it, and root in a sandbox may read what is root's. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from skyrl_magic.loopback.runtime.mounted import remove_tree

#: A file larger than this is no configuration, in bytes; it is left out.
MAX_FILE_BYTES = 16 * 1024 * 1024


class _Row(NamedTuple):
    path: str
    mode: int
    size_bytes: int
    mtime_ns: int
    target: str
    """Of a link."""


def copy(store: Path, source: Path = Path("/etc")) -> Path:
    """The folder in ``store`` that has what everybody may read of ``source`` now; made where that is new.

    Raises:
        OSError: The disk is full.
    """
    rows = list(_scan(source))
    target = store / hashlib.sha256(repr(rows).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    if target.is_dir():
        return target
    store.mkdir(mode=0o700, exist_ok=True)
    making = store / f".{secrets.token_hex(8)}"
    try:
        making.mkdir(mode=0o755)
        for row in rows:
            _write(source, making, row)
        try:
            making.rename(target)
        except OSError:
            if not target.is_dir():  # else another creation has just made the same
                raise
    finally:
        remove_tree(making)
    return target


def _scan(source: Path) -> Iterator[_Row]:
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(source / folder), key=lambda entry: entry.name)
        except OSError:  # it went away, or is not for this user
            continue
        for entry in entries:
            with contextlib.suppress(OSError):
                row = _row(f"{folder}/{entry.name}" if folder else entry.name, entry)
                if row is not None:
                    yield row
                    if stat.S_ISDIR(row.mode):
                        folders.append(row.path)


def _row(path: str, entry: os.DirEntry[str]) -> _Row | None:
    found = entry.stat(follow_symlinks=False)
    mode = found.st_mode
    if stat.S_ISLNK(mode):
        return _Row(path, mode, 0, 0, os.readlink(entry.path))  # noqa: PTH115 - Path.readlink normalizes the target
    if stat.S_ISDIR(mode) and mode & stat.S_IROTH and mode & stat.S_IXOTH:
        return _Row(path, mode, 0, 0, "")
    if stat.S_ISREG(mode) and mode & stat.S_IROTH and found.st_size <= MAX_FILE_BYTES:
        return _Row(path, mode, found.st_size, found.st_mtime_ns, "")
    return None


def _write(source: Path, root: Path, row: _Row) -> None:
    target = root / row.path
    if stat.S_ISLNK(row.mode):
        target.symlink_to(row.target)
    elif stat.S_ISDIR(row.mode):
        target.mkdir(mode=0o755)
    else:
        data = _read(source / row.path)
        if data is not None:
            target.write_bytes(data)
            target.chmod(0o755 if row.mode & stat.S_IXOTH else 0o644)


def _read(path: Path) -> bytes | None:
    """Its content, where it still is a file that everybody may read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        return file.read(MAX_FILE_BYTES) if stat.S_ISREG(mode) and mode & stat.S_IROTH else None
