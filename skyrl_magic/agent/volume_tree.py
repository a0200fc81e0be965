"""The archive's folders on the volume, opened step by step and never through a link.

Others can write on the volume too: a folder of ours that is a link would lead a write, or what is to be removed, to
files of theirs, or of this container.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from pathlib import Path
from typing import Dict, List

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: So many entries of a folder are looked at: no archive of ours has more.
_MAX_ENTRIES = 50_000
_PRIVATE = 0o600


class VolumeTree:
    """Folders of one volume. The fixed ones, of two names, are kept open until :meth:`close`.

    Args:
        volume_dir: where the volume is mounted.
    """

    def __init__(self, volume_dir: Path) -> None:
        self._volume_dir = volume_dir
        self._open: Dict[str, int] = {}

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folders, as whoever drops it does too."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def entries(self, folder: str) -> List[str]:
        """The names in a folder; none where it is not there, or is none."""
        with contextlib.suppress(OSError), os.scandir(self._at(folder)) as found:
            return [entry.name for entry in itertools.islice(found, _MAX_ENTRIES)]
        return []

    def status(self, folder: str, name: str) -> os.stat_result:
        """What a name in a folder is, a link as a link. Raises ``OSError``."""
        return os.stat(name, dir_fd=self._at(folder), follow_symlinks=False)

    def read(self, folder: str, name: str, max_bytes: int) -> bytes:
        """A regular file. Raises ``OSError``, or ``ValueError`` for anything else, and for a larger one."""
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._at(folder))
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size > max_bytes:
                raise ValueError(f"{name} is no file of ours")
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise ValueError(f"{name} is no file of ours")
        return data

    def opened_to_append(self, folder: str, name: str) -> int:
        """A descriptor of a regular file, made where there is none. Raises ``OSError``."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, _PRIVATE, dir_fd=self._at(folder, make=True))
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(f"{folder}/{name} is no file")
        return fd

    def replace(self, beside: str, folder: str, name: str, data: bytes) -> None:
        """Write a file whole, or leave the old one.

        Args:
            beside: a folder and a name on the volume, for the time being.
            folder: where the file goes; it is made where it is not there.
            name: the file's.
            data: its content.

        Raises:
            OSError: it could not be written.
        """
        there, _, temporary = beside.rpartition("/")
        at, to = self._at(there, make=True), self._at(folder, make=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=at)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(temporary, flags, _PRIVATE, dir_fd=at)
            try:
                write_all(fd, data)
            finally:
                os.close(fd)
            os.rename(temporary, name, src_dir_fd=at, dst_dir_fd=to)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=at)
            raise

    def unlink(self, folder: str, name: str) -> None:
        """Remove a file, or a link itself. Raises ``OSError``."""
        os.unlink(name, dir_fd=self._at(folder))

    def rmdir(self, folder: str, name: str) -> None:
        """Remove an empty folder. Raises ``OSError``."""
        os.rmdir(name, dir_fd=self._at(folder))

    def _at(self, folder: str, *, make: bool = False) -> int:
        """A descriptor of a folder, named from the volume's root. Raises ``OSError``."""
        if folder not in self._open:
            fd = os.open(self._volume_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for name in folder.split("/"):
                fd = _below(fd, name, make=make)
            for known in [known for known in self._open if known.count("/") > 1]:  # one run's folder at a time
                os.close(self._open.pop(known))
            self._open[folder] = fd
        return self._open[folder]


def write_all(fd: int, data: bytes) -> None:
    """Write all of it. Raises ``OSError``."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _below(fd: int, name: str, *, make: bool) -> int:
    """A folder in the one of ``fd``, which is closed. Raises ``OSError``."""
    try:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=fd)
        return os.open(name, _FOLDER, dir_fd=fd)
    finally:
        os.close(fd)
