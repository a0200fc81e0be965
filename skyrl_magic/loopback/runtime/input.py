"""A process's stdin, written by offset: a write that is sent again is not written again."""

from __future__ import annotations

import asyncio
import os


class StdinGapError(Exception):
    """The offset lies beyond what was written: bytes in between are missing."""


class StdinClosedError(Exception):
    """The process does not read any more, or stdin was closed before."""


class StdinWriter:
    """Writes to a pipe (or a terminal's master side) as fast as the process reads.

    ``written_bytes`` counts what the pipe has taken, so a write that was cut short is continued by sending it again.
    """

    def __init__(self, descriptor: int, *, terminal: bool = False, written_bytes: int = 0) -> None:
        """Write to ``descriptor``, which is closed at the end; a server before us may have written some already."""
        self.written_bytes = written_bytes
        self.closed = False
        self._descriptor = descriptor
        self._terminal = terminal
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._waiter: asyncio.Future[None] | None = None
        os.set_blocking(descriptor, False)

    async def write(self, offset: int, data: bytes, *, eof: bool = False) -> None:
        """Write ``data``, whose first byte has this offset; bytes that were written before are skipped.

        Raises:
            StdinGapError: The offset lies beyond what was written.
            StdinClosedError: There is something new to write and stdin is closed.
        """
        async with self._lock:
            if offset > self.written_bytes:
                raise StdinGapError(f"stdin has {self.written_bytes} bytes, so nothing can be written at {offset}")
            view = memoryview(data)[self.written_bytes - offset :]
            if view and self.closed:
                raise StdinClosedError("stdin is closed")
            while view:
                count = await self._write_some(view)
                self.written_bytes += count
                view = view[count:]
            if eof:
                self._end()

    async def _write_some(self, view: memoryview) -> int:
        if self.closed:
            raise StdinClosedError("the process has ended")
        try:
            return os.write(self._descriptor, view)
        except BlockingIOError:
            await self._writable()
            return 0
        except OSError:
            self.close()
            raise StdinClosedError("the process has closed its stdin") from None

    async def _writable(self) -> None:
        waiter = self._waiter = self._loop.create_future()
        self._loop.add_writer(self._descriptor, _wake, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            if self._descriptor >= 0:
                self._loop.remove_writer(self._descriptor)

    def _end(self) -> None:
        if self._terminal and not self.closed:
            self.closed = True
            os.write(self._descriptor, b"\x04")  # a terminal has no end of file: Ctrl-D, as a user would type it
        else:
            self.close()

    def close(self) -> None:
        """Close stdin; writers that wait get an error."""
        self.closed = True
        if self._descriptor >= 0:
            self._loop.remove_writer(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        if self._waiter is not None:
            _wake(self._waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
