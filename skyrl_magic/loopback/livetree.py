"""Between a live directory and stored contents: scan, store, write. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import stat
import time
from pathlib import Path

from skyrl_magic.loopback.blobs import BlobStore
from skyrl_magic.loopback.commit_limits import UNLIMITED, CommitLimits
from skyrl_magic.loopback.trees import DIRECTORY, FILE, SYMLINK, Entry, Stamp

#: Block size of Modal's v2 volumes, in bytes (``modal._utils.blob_utils.BLOCK_SIZE``).
BLOCK_BYTES = 8 * 1024 * 1024
#: SHA-256 of no bytes: a block of nothing but zeros.
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#: A file whose last write is younger than this may be written again without a visible change of its times,
#: in nanoseconds: some ticks of the kernel's coarse clock (4 ms at 250 Hz, 10 ms at 100 Hz).
RACY_NS = 50_000_000
#: How often a file that changes while it is read is read again before its newest state is taken.
READ_ATTEMPTS = 3

_KINDS = {stat.S_IFREG: FILE, stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: SYMLINK}


def stamp_of(status: os.stat_result) -> Stamp | None:
    """The stamp of an ``lstat`` result; None for what a volume does not hold (sockets, pipes, devices)."""
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    mode = stat.S_IMODE(status.st_mode)
    if kind == DIRECTORY:
        return Stamp(kind, mode, 0, 0, 0, 0)
    return Stamp(kind, mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def scan(live: Path, limits: CommitLimits = UNLIMITED) -> dict[str, Stamp]:
    """The stamp of every path below ``live``, one ``lstat`` each; nothing is read.

    Raises:
        CommitStoppedError: The limits say so.
        OSError: ``live`` is not there, or a directory in it cannot be read.
    """
    stamps: dict[str, Stamp] = {}
    folders = [""]
    while folders:
        limits.check()
        folder = folders.pop()
        try:
            with os.scandir(live / folder) as listing:
                entries = list(listing)
        except (FileNotFoundError, NotADirectoryError):
            if not folder:
                raise
            continue  # it went away while we were looking
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            try:  # not suppress: this is what a commit of many files takes its time for
                stamp = stamp_of(entry.stat(follow_symlinks=False))
            except FileNotFoundError:
                continue
            if stamp is not None:
                stamps[path] = stamp
                if stamp.kind == DIRECTORY:
                    folders.append(path)
    return stamps


def store(path: Path, blobs: BlobStore, limits: CommitLimits = UNLIMITED) -> tuple[Entry, Stamp] | None:
    """Store what lies at ``path``; return its entry and the stamp to compare with later, or None if it went away.

    Raises:
        CommitStoppedError: The limits say so.
        OSError: It cannot be read, or the disk is full.
    """
    try:
        status = path.lstat()
        stamp = stamp_of(status)
        if stamp is None:
            return None
        if stamp.kind == DIRECTORY:
            return Entry(DIRECTORY, stamp.mode, status.st_mtime_ns), stamp
        if stamp.kind == SYMLINK:
            target = os.readlink(path)  # noqa: PTH115 - Path.readlink normalizes the target
            return Entry(SYMLINK, stamp.mode, stamp.mtime_ns, target=target), stamp
        return _store_file(path, blobs, limits)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _store_file(path: Path, blobs: BlobStore, limits: CommitLimits) -> tuple[Entry, Stamp] | None:
    with _open_for_reading(path) as file:
        stamp = stamp_of(os.fstat(file.fileno()))
        attempts = 0
        while stamp is not None and stamp.kind == FILE:
            file.seek(0)
            blocks, size_bytes = _store_blocks(file, blobs, limits)
            before, stamp = stamp, stamp_of(os.fstat(file.fileno()))
            steady = before == stamp and size_bytes == before.size_bytes
            attempts += 1
            if steady or attempts == READ_ATTEMPTS:
                racy = not steady or time.time_ns() - before.mtime_ns < RACY_NS
                entry = Entry(FILE, before.mode, before.mtime_ns, size_bytes, blocks)
                return entry, before._replace(inode=-1) if racy else before
    return None


def _open_for_reading(path: Path) -> io.FileIO:
    # O_NONBLOCK: a pipe that took the file's place must not make us wait for its writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return io.FileIO(os.open(path, flags), "rb")
    except PermissionError:
        # Without root even the owner may not read a file of mode 0200; its mode is put back at once.
        mode = stat.S_IMODE(path.lstat().st_mode)
        path.chmod(mode | stat.S_IRUSR)
        try:
            return io.FileIO(os.open(path, flags), "rb")
        finally:
            path.chmod(mode)


def _store_blocks(file: io.FileIO, blobs: BlobStore, limits: CommitLimits) -> tuple[tuple[str, ...], int]:
    blocks: list[str] = []
    size_bytes = 0
    while block := _read_block(file):
        limits.check()
        blocks.append(blobs.put(block.rstrip(b"\0")))
        size_bytes += len(block)
    return tuple(blocks), size_bytes


def split_blob(sha256: str, blobs: BlobStore) -> tuple[tuple[str, ...], int]:
    """The blocks and the size in bytes of a file that was uploaded as one blob.

    Raises:
        OSError: The blob is not there.
    """
    with io.FileIO(blobs.path(sha256), "rb") as file:
        return _store_blocks(file, blobs, UNLIMITED)


def _read_block(file: io.FileIO) -> bytes:
    parts: list[bytes] = []
    missing_bytes = BLOCK_BYTES
    while missing_bytes and (part := file.read(missing_bytes)):
        parts.append(part)
        missing_bytes -= len(part)
    return b"".join(parts)


def write(path: Path, entry: Entry, blobs: BlobStore) -> Stamp:
    """Make ``path`` as ``entry`` says; nothing lies there yet, except perhaps the directory itself.

    Raises:
        OSError: It cannot be written.
    """
    if entry.kind == DIRECTORY:
        path.mkdir(mode=0o700, exist_ok=True)
        path.chmod(entry.mode)
    elif entry.kind == SYMLINK:
        path.symlink_to(entry.target)
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
    else:
        _write_file(path, entry, blobs)
    stamp = stamp_of(path.lstat())
    if stamp is None:  # pragma: no cover - one of the three kinds was just made
        raise OSError(f"{path} was replaced while it was written")
    return stamp


def _write_file(path: Path, entry: Entry, blobs: BlobStore) -> None:
    with path.open("xb", buffering=0) as file:
        for index, sha256 in enumerate(entry.blocks):
            if sha256 != EMPTY_SHA256:
                file.seek(index * BLOCK_BYTES)
                _append_blob(file, blobs.path(sha256))
        file.truncate(entry.size_bytes)
        os.fchmod(file.fileno(), entry.mode)
        os.utime(file.fileno(), ns=(entry.mtime_ns, entry.mtime_ns))


def _append_blob(file: io.FileIO, blob: Path) -> None:
    with blob.open("rb", buffering=0) as source:
        try:
            # In the kernel, and without a copy where the file system can share extents.
            while os.copy_file_range(source.fileno(), file.fileno(), BLOCK_BYTES):
                pass
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            shutil.copyfileobj(source, file)


def remove(path: Path) -> None:
    """Remove a file, a symlink or an empty directory; what is not there or not empty is left."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        try:
            path.unlink()
        except (IsADirectoryError, PermissionError):
            with contextlib.suppress(OSError):
                path.rmdir()
