"""What the main process prints, written down by its keeper, with the order and the time of its arrival."""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from skyrl_magic.loopback.runtime.spec import Folder

#: What is kept of each stream, in bytes; what comes after that is thrown away.
LOG_BYTES = 256 * 1024 * 1024
#: How long one entry of the index goes on while only one stream prints, in seconds.
PIECE_S = 0.1
#: What is kept of the index, in bytes; what comes after that counts as the last entry's.
INDEX_BYTES = 16 * 1024 * 1024
_READ_BYTES = 64 * 1024


class MainLog:
    """Drains the main process's pipes into files.

    The process does not get the files themselves: a script that writes to ``/dev/stdout`` would empty them.
    """

    def __init__(self, selector: selectors.BaseSelector, folder: Folder, changed: Callable[[], None]) -> None:
        self._selector = selector
        self._folder = folder
        self._changed = changed
        self._files: dict[int, tuple[str, int]] = {}
        self._index = -1
        self._index_bytes = 0
        self._piece: tuple[str, float] = ("", 0.0)
        self.sizes = {"stdout": 0, "stderr": 0}
        """Bytes written of each stream."""
        self.open = {"stdout", "stderr"}
        """The streams to which more may come."""

    def drain(self, pipes: Mapping[str, int]) -> None:
        """Begin to read these pipes, by the names of their streams."""
        self._index = _append_to(self._folder.log_index)
        for stream, descriptor in pipes.items():
            self._files[descriptor] = (stream, _append_to(self._folder.log(stream)))
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ, functools.partial(self._read, descriptor))

    def finish(self) -> None:
        """Read what is left, now that nobody writes any more."""
        for descriptor in list(self._files):
            while self._read(descriptor):
                pass

    def _read(self, descriptor: int) -> bool:
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return False
        stream, file = self._files[descriptor]
        if not data:
            self._selector.unregister(descriptor)
            os.close(descriptor)
            os.close(file)
            del self._files[descriptor]
            self.open.discard(stream)
        elif self.sizes[stream] < LOG_BYTES:
            with contextlib.suppress(OSError):  # a full disk must not end the sandbox
                self._note(stream)
                self.sizes[stream] += os.write(file, data)
        self._changed()
        return bool(data)

    def _note(self, stream: str) -> None:
        """Write down when, and in which order, the bytes that follow came."""
        now_s = time.time()
        if self._piece[0] == stream and now_s < self._piece[1] + PIECE_S:
            return
        if self._index_bytes < INDEX_BYTES:
            self._piece = (stream, now_s)
            self._index_bytes += os.write(self._index, f"{stream} {self.sizes[stream]} {now_s:.6f}\n".encode("ascii"))


def _append_to(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
