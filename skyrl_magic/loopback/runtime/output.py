"""Output that can be read again: bytes by offset, with back-pressure towards the process that writes them."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import fcntl
import os

#: A pipe is not read while its reader is this far behind, in bytes: the process then blocks, as on Modal.
BACKLOG_BYTES = 1024 * 1024
#: What stays readable behind the reader, in bytes. Modal's client opens its streams with a flow-control window of
#: 64 MiB (``GRPC_WINDOW_SIZE``): so much may be sent and still be lost with a connection.
REPLAY_BYTES = 64 * 1024 * 1024
#: Size of one read and of one message, in bytes.
CHUNK_BYTES = 256 * 1024
#: Wished-for capacity of an output pipe, in bytes (the default is 64 KiB).
PIPE_BYTES = 1024 * 1024
#: Chunks are dropped so many at a time: dropping from a list's front moves the rest.
_DROP_COUNT = 64


class OffsetGoneError(Exception):
    """The offset lies before what is still kept, or beyond what was written."""


class ReplayBuffer:
    """A byte stream of which the last part can be read from any offset."""

    def __init__(self, replay_bytes: int = REPLAY_BYTES) -> None:
        self._replay_bytes = replay_bytes
        self._starts: list[int] = []
        self._chunks: list[bytes] = []
        self.start = 0
        """Offset of the first byte that is kept."""
        self.end = 0
        """Offset behind the last byte."""
        self.delivered = 0
        """Offset behind the last byte that a reader was given."""
        self.closed = False

    def append(self, data: bytes) -> None:
        """Add ``data`` at the end."""
        self._starts.append(self.end)
        self._chunks.append(data)
        self.end += len(data)

    def close(self) -> None:
        """Nothing more will come."""
        self.closed = True

    def read(self, offset: int, limit: int = CHUNK_BYTES) -> bytes:
        """Up to ``limit`` bytes from ``offset`` on; empty where nothing has come yet.

        Raises:
            OffsetGoneError: The offset is no longer, or not yet, part of the stream.
        """
        if not self.start <= offset <= self.end:
            raise OffsetGoneError(f"offset {offset} cannot be read: bytes {self.start} to {self.end} are kept")
        if offset == self.end:
            return b""
        index = bisect.bisect_right(self._starts, offset) - 1
        skip = offset - self._starts[index]
        chunk = self._chunks[index]
        return chunk if not skip and len(chunk) <= limit else chunk[skip : skip + limit]

    def deliver(self, offset: int) -> None:
        """A reader was given everything before ``offset``; what lies far behind it is dropped."""
        self.delivered = max(self.delivered, offset)
        keep_from = bisect.bisect_right(self._starts, self.delivered - self._replay_bytes) - 1
        if keep_from >= _DROP_COUNT:
            del self._starts[:keep_from], self._chunks[:keep_from]
            self.start = self._starts[0]

    def forget(self) -> None:
        """Drop what is kept, if all of it was delivered: nobody will ask for it again."""
        if self.delivered == self.end:
            self._starts.clear()
            self._chunks.clear()
            self.start = self.end


class PipeReader:
    """Drains a pipe (or a terminal's master side) into a :class:`ReplayBuffer` for as long as a reader keeps up."""

    def __init__(self, descriptor: int, backlog_bytes: int = BACKLOG_BYTES) -> None:
        self.buffer = ReplayBuffer()
        self._backlog_bytes = backlog_bytes
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._reading = False
        os.set_blocking(descriptor, False)
        self._resume()

    async def read(self, offset: int) -> bytes:
        """Bytes from ``offset`` on, as soon as there are some; empty at the end of the stream.

        Raises:
            OffsetGoneError: The offset is no longer, or not yet, part of the stream.
        """
        while True:
            data = self.buffer.read(offset)
            if data or self.buffer.closed:
                return data
            self._changed.clear()
            await self._changed.wait()

    def deliver(self, offset: int) -> None:
        """A reader was given everything before ``offset``: the pipe is read again if it waited for that."""
        self.buffer.deliver(offset)
        self._resume()

    def close(self) -> None:
        """Stop reading; the writer gets EPIPE."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        self.buffer.close()
        self._changed.set()

    def _resume(self) -> None:
        if self._descriptor >= 0 and not self._reading and not self._is_behind():
            self._loop.add_reader(self._descriptor, self._on_readable)
            self._reading = True

    def _is_behind(self) -> bool:
        return self.buffer.end - self.buffer.delivered >= self._backlog_bytes

    def _on_readable(self) -> None:
        try:
            data = os.read(self._descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:  # EIO: the last process has closed the terminal
            data = b""
        if not data:
            self.close()
            return
        self.buffer.append(data)
        if self._is_behind():
            self._loop.remove_reader(self._descriptor)
            self._reading = False
        self._changed.set()


def output_pipe() -> tuple[int, int]:
    """A pipe (read end, write end) that holds more than the default, where the system allows it."""
    read_end, write_end = os.pipe()
    with contextlib.suppress(OSError):  # the user's allowance for pipes is spent
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return read_end, write_end
