"""Goes through a checkout folder by folder, never through a link, and not beyond bounds.

Folders are opened by their descriptors, so that one that becomes a link meanwhile leads nowhere. What a stranger's
checkout can make of it is a bounded amount of work, or one line.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from skyrl_magic.core import contract
from skyrl_magic.core.errors import CheckoutError, reason_of
from skyrl_magic.service.changes import ChangeWatch
from skyrl_magic.service.ignore import FolderIgnore, Ignore

#: A checkout has no more files than this, nor bytes, nor folders in one another.
MAX_FILES = 100_000
MAX_SIZE_BYTES = 20 << 30
MAX_DEPTH = 100
#: So many entries are looked at, also those that are left out.
MAX_LOOKED_AT = 1_000_000
#: The system takes no path that is much longer, in bytes; below another folder there must be room for it.
_MAX_PATH_BYTES = 3_000
#: What a path raises that was deleted, or became something else, since it was listed.
GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
#: A pipe does not wait for who writes into it.
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

#: Path, stat and a symlink's target.
Found = tuple[str, os.stat_result, "str | None"]


class TreeWalk:
    """One walk.

    Args:
        root: of the checkout.
        ignore: what is left out beside what always is; None for nothing.
        changes: is told of each folder before it is listed.
    """

    def __init__(self, root: Path, ignore: Ignore | None, changes: ChangeWatch | None) -> None:
        self._root = root
        self._ignore = ignore
        self._changes = changes
        self._files = self._size_bytes = self._looked_at = 0
        self.unreadable: list[str] = []
        self.special: list[str] = []

    def entries(self) -> Iterator[Found]:
        """What is kept: files, symlinks, and directories that are empty.

        Raises:
            CheckoutError: more than the bounds, or patterns that take too long.
        """
        try:
            descriptor = os.open(self._root, _FOLDER)
        except GONE:
            return
        except OSError:
            self.unreadable.append(".")
            return
        try:
            yield from self._folder(descriptor, ())
        except ValueError as error:  # of a pattern
            raise CheckoutError(f"{contract.IGNORE_FILE}: {reason_of(error)}") from None
        finally:
            os.close(descriptor)

    def _folder(self, descriptor: int, names: tuple[str, ...]) -> Iterator[Found]:
        prefix = "".join(f"{name}/" for name in names)
        if self._changes is not None:
            self._changes.add(os.path.join(self._root, prefix.rstrip("/")))  # noqa: PTH118  (a quick one)
        entries = self._listed(descriptor, prefix)
        if entries is None:
            return
        ignore = None if self._ignore is None else self._ignore.in_folder(names)
        kept = False
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            if _is_left_out(entry.name, ignore, is_folder=is_folder):
                continue
            if is_folder:
                kept = True
                yield from self._below(descriptor, (*names, entry.name))
                continue
            found = self._look(descriptor, entry, prefix + entry.name)
            if found is not None:
                kept = True
                yield found
        if not kept and prefix:
            self._count(0)
            yield prefix.rstrip("/"), os.fstat(descriptor), None

    def _below(self, parent: int, names: tuple[str, ...]) -> Iterator[Found]:
        """What a folder has, as far as it can be opened."""
        path = "/".join(names)
        if len(names) > MAX_DEPTH:
            raise CheckoutError(
                f"the checkout has more than {MAX_DEPTH} folders in one another below {names[0]}: "
                f"{contract.IGNORE_FILE} leaves folders out"
            )
        if len(os.fsencode(path)) > _MAX_PATH_BYTES:
            self.unreadable.append(path)
            return
        try:
            descriptor = os.open(names[-1], _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
        except GONE:
            return
        except OSError as error:
            if error.errno != errno.ELOOP:  # it is a link now
                self.unreadable.append(path)
            return
        try:
            yield from self._folder(descriptor, names)
        finally:
            os.close(descriptor)

    def _listed(self, descriptor: int, prefix: str) -> list[os.DirEntry[str]] | None:
        """The entries of a folder; None where they cannot be had."""
        entries = []
        try:
            with os.scandir(descriptor) as found:
                for entry in found:
                    entries.append(entry)
                    self._looked_at += 1
                    if self._looked_at > MAX_LOOKED_AT:
                        raise CheckoutError(_too_much(f"{MAX_LOOKED_AT:,} entries"))
        except GONE:
            return None
        except OSError:
            self.unreadable.append(prefix.rstrip("/") or ".")
            return None
        return entries

    def _look(self, parent: int, entry: os.DirEntry[str], path: str) -> Found | None:
        """A file or a symlink; None for what does not travel and for what is gone."""
        try:
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                target = os.readlink(entry.name, dir_fd=parent)
                self._count(0)
                return path, info, target
        except GONE:
            return None
        except OSError as error:
            if error.errno != errno.EINVAL:  # it was a symlink, and is none any more
                self.unreadable.append(path)
            return None
        if stat.S_ISREG(info.st_mode):
            self._count(info.st_size)
            return path, info, None
        if not stat.S_ISDIR(info.st_mode):
            self.special.append(path)
        return None

    def _count(self, size_bytes: int) -> None:
        """Count a file before it is read: a sparse one costs nothing but its reader's time."""
        self._files += 1
        self._size_bytes += size_bytes
        if self._files > MAX_FILES:
            raise CheckoutError(_too_much(f"{MAX_FILES:,} files"))
        if self._size_bytes > MAX_SIZE_BYTES:
            raise CheckoutError(_too_much(f"{MAX_SIZE_BYTES >> 30} GiB"))


def open_beneath(root: Path, path: str) -> io.BufferedReader:
    """A regular file below a folder, on a way without links; what became something else is gone. Raises OSError."""
    *folders, name = path.split("/")
    with contextlib.ExitStack() as opened:
        parent = os.open(root, _FOLDER)
        opened.callback(os.close, parent)
        for folder in folders:
            parent = _opened(folder, _FOLDER | os.O_NOFOLLOW, parent)
            opened.callback(os.close, parent)
        descriptor = _opened(name, _FILE, parent)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "it is no regular file any more", path)
    return os.fdopen(descriptor, "rb")


def _opened(name: str, flags: int, parent: int) -> int:
    try:
        return os.open(name, flags, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # it is a link now, or a socket
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from None
        raise


def _is_left_out(name: str, ignore: FolderIgnore | None, *, is_folder: bool) -> bool:
    if name in contract.IGNORED_NAMES or name.endswith(contract.IGNORED_SUFFIXES):
        return True
    return ignore is not None and ignore.ignores(name, is_folder=is_folder)


def _too_much(what: str) -> str:
    return f"the checkout has more than {what}: {contract.IGNORE_FILE} leaves folders out"
