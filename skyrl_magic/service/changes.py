"""Whether anything in some folders may have changed since one last asked: the kernel's word, not a guess.

The kernel queues an event before the system call that changed something returns, so an empty queue proves that nothing
was created, written, renamed or given other attributes. Where that does not hold (file systems that others change from
elsewhere, no inotify, too many folders) the answer is always that something may have changed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inotify_simple import INotify

#: File systems on which every change passes this machine's kernel, as in /proc/self/mountinfo.
LOCAL_FILE_SYSTEMS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "zfs", "f2fs", "bcachefs"})


class ChangeWatch:
    """Watches folders (not what lies below them: each is added by itself). :meth:`close` it; not thread-safe."""

    def __init__(self) -> None:
        self._inotify: INotify | None = None
        self._quiet = False

    def close(self) -> None:
        """Stop watching; from now on anything may have changed."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def begin(self, folder: Path) -> None:
        """What is watched from now on is looked at for the first time: begin before looking.

        Args:
            folder: the root of what will be added; its file system decides whether watching is enough.
        """
        self.close()
        self._quiet = True
        if _file_system(folder) in LOCAL_FILE_SYSTEMS:
            self._inotify = _open()

    def add(self, folder: str) -> None:
        """Watch a folder's own entries; add it before they are listed."""
        if self._inotify is None:
            return
        from inotify_simple import flags

        mask = (
            flags.MODIFY
            | flags.ATTRIB
            | flags.CLOSE_WRITE  # of what was written through a memory map
            | flags.MOVED_FROM
            | flags.MOVED_TO
            | flags.CREATE
            | flags.DELETE
            | flags.DELETE_SELF
            | flags.MOVE_SELF
            | flags.ONLYDIR
            | flags.DONT_FOLLOW
        )
        try:
            self._inotify.add_watch(folder, mask)
        except OSError:  # gone again, unreadable, or over the system's number of watches
            self.close()

    def quiet(self) -> bool:
        """True when certainly nothing has changed since :meth:`begin`; once False, always False."""
        if self._inotify is None:
            return False
        # An overflow of the kernel's queue is an event too.
        if self._quiet and self._inotify.read(timeout=0):
            self._quiet = False
        return self._quiet


def _open() -> INotify | None:
    if sys.platform != "linux":
        return None
    from inotify_simple import INotify

    try:
        return INotify()
    except OSError:  # over the user's number of instances
        return None


def _file_system(folder: Path) -> str:
    """The type of the file system that holds ``folder``, or an empty string where it cannot be told."""
    best, kind = "", ""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    path = str(folder.resolve())
    for line in lines:
        fields, _, rest = line.partition(" - ")
        mount = fields.split()[4].encode("ascii", "surrogateescape").decode("unicode_escape")
        inside = path == mount or path.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, rest.split()[0]
    return kind
