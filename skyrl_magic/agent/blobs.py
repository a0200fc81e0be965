"""Files for and from the Python kernel, in a folder of the session: one client's, for as long as its channel lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import BinaryIO, Dict, Iterator, Optional

from skyrl_magic.agent import paths
from skyrl_magic.agent.feed import Sink, has_room
from skyrl_magic.core import protocol


class Blobs:
    """The files that one client has put. Nobody else's are read or removed.

    Each is locked while this process lives: the next file that anybody puts sweeps away those that a killed ``attach``
    has left.

    Args:
        folder: where they lie; made, for this user alone, with the first one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: Dict[str, BinaryIO] = {}
        self._failed: Dict[str, Exception] = {}

    def put(self, part: protocol.PutBlob) -> None:
        """Write a part behind those before it. What is wrong with one is said at the last one.

        Raises:
            ValueError: no plain name, a file that is there, a part that does not follow. OSError: the disk's answer.
        """
        try:
            if part.name not in self._failed:
                self._write(part)
        except (ValueError, OSError) as error:
            self._failed[part.name] = error
        if part.last and part.name in self._failed:
            raise self._failed.pop(part.name)

    def path(self, name: str) -> Path:
        """A file of this client. Raises ``ValueError`` for another name."""
        if name not in self._files:
            raise ValueError(f"this client has put no {name!r}")
        return self._folder / name

    def drop(self, name: str) -> None:
        """Remove a file of this client; one that is not there is no error."""
        file = self._files.pop(name, None)
        if file is not None:
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()
            file.close()

    def close(self) -> None:
        """Remove them all."""
        for name in list(self._files):
            self.drop(name)

    def _write(self, part: protocol.PutBlob) -> None:
        file = self._files.get(part.name)
        if part.offset != (0 if file is None else file.tell()):
            raise ValueError(f"a part of {part.name} at {part.offset} does not follow those before it")
        file = file or self._create(part.name)
        view = memoryview(part.payload)
        while view:
            view = view[file.write(view) :]

    def _create(self, name: str) -> BinaryIO:
        if not paths.plain_name(name):
            raise ValueError(f"{name!r} is no plain name")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._alone():
            self._sweep()
            descriptor = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            file: BinaryIO = open(descriptor, "wb", buffering=0)  # noqa: PTH123, SIM115  (kept, with its lock)
            fcntl.flock(file, fcntl.LOCK_EX)
        self._files[name] = file
        return file

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """In the block nobody else sweeps: a file is there before it is locked."""
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):  # it is somebody's, or gone
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                finally:
                    os.close(descriptor)


class BlobReader:
    """The answer to one ``ReadBlob``, sent as the client takes it."""

    def __init__(self, request: protocol.ReadBlob, path: Path, sink: Sink) -> None:
        self._request = request.request
        self._sink = sink
        self._descriptor: Optional[int] = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        self._size = os.fstat(self._descriptor).st_size
        self._at = 0
        self.over = False

    def pump(self) -> None:
        """Send as much as the client takes now."""
        while not self.over and self._descriptor is not None and has_room(self._sink):
            data = os.pread(self._descriptor, protocol.CHUNK_BYTES, self._at)
            at, self._at = self._at, self._at + len(data)
            self.over = self._at >= self._size or not data
            self._sink.send(protocol.JournalData(self._request, at, len(data), False, self.over, data))

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
