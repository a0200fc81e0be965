"""Contents by SHA-256: the files of mounts and the blocks of volumes. Standard library only.

Sandbox keepers write here too, from processes of their own, so a blob appears by rename and is never changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

#: What :meth:`BlobStore.collect` leaves alone, in seconds: a younger blob may be on its way into a manifest.
COLLECT_AGE_S = 24 * 3600.0


_SHA256 = re.compile("[0-9a-f]{64}")


class DigestMismatchError(Exception):
    """The bytes that came are not those that were announced."""


class BlobWriter:
    """A blob that is being written; :meth:`commit` gives it its name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / f".incoming.{os.getpid()}.{secrets.token_hex(8)}"
        self._file = self._path.open("xb", buffering=0)
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.size_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append ``data``.

        Raises:
            OSError: The disk is full or broken.
        """
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._sha256.update(data)
        self._md5.update(data)
        self.size_bytes += len(data)

    @property
    def md5_hex(self) -> str:
        """MD5 of what was written: the ETag that Modal's client compares."""
        return self._md5.hexdigest()

    def commit(self, expected_sha256: str | None = None) -> str:
        """Give the blob its name and return it.

        Raises:
            DigestMismatchError: The content does not have ``expected_sha256``; nothing is kept.
        """
        sha256 = self._sha256.hexdigest()
        if expected_sha256 is not None and sha256 != expected_sha256:
            self.discard()
            raise DigestMismatchError(f"expected sha256 {expected_sha256}, got {sha256}")
        self._file.close()
        self._path.replace(self._folder / sha256)
        return sha256

    def discard(self) -> None:
        """Drop what was written."""
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


class BlobStore:
    """The folder of blobs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, sha256: str) -> Path:
        """Where the blob lies, if it is there.

        Raises:
            ValueError: ``sha256`` is not 64 lower-case hex digits.
        """
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"not a SHA-256: {sha256!r}")
        return self._folder / sha256

    def claim(self, sha256: str) -> bool:
        """Whether the blob is there; its age starts anew, so that it is not collected before it is used."""
        try:
            os.utime(self.path(sha256))
        except FileNotFoundError:
            return False
        return True

    def writer(self) -> BlobWriter:
        """A new blob of unknown content."""
        return BlobWriter(self._folder)

    def put(self, data: bytes | memoryview, sha256: str | None = None) -> str:
        """Store ``data`` and return its SHA-256.

        Raises:
            DigestMismatchError: ``data`` does not have the announced ``sha256``.
            OSError: The disk is full or broken.
        """
        digest = hashlib.sha256(data).hexdigest()
        if sha256 is not None and digest != sha256:
            raise DigestMismatchError(f"expected sha256 {sha256}, got {digest}")
        if not self.claim(digest):
            beside = self._folder / f".incoming.{os.getpid()}.{secrets.token_hex(8)}"
            try:
                beside.write_bytes(data)
                beside.replace(self._folder / digest)
            finally:
                beside.unlink(missing_ok=True)
        return digest

    def collect(self, keep: Iterable[str], min_age_s: float = COLLECT_AGE_S) -> int:
        """Delete blobs that are not in ``keep`` and older than ``min_age_s``; return the bytes freed."""
        kept = set(keep)
        deadline = time.time() - min_age_s
        freed_bytes = 0
        for entry in self._scan():
            if entry.name in kept:
                continue
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                if status.st_mtime < deadline:
                    Path(entry.path).unlink()
                    freed_bytes += status.st_size
        return freed_bytes

    def _scan(self) -> Iterator[os.DirEntry[str]]:
        with os.scandir(self._folder) as entries:
            yield from entries
