"""What comes through the kernel's descriptors 1 and 2: processes that a cell starts, and code that is no Python.

Each cell has pipes of its own, so that a process which outlives its cell still writes into that one's.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import io
import os
import select
import struct
import termios
import threading
from typing import Any, Callable, Dict, Optional

Header = Dict[str, Any]
#: Takes text for the cell of a header.
Write = Callable[[str, Header], object]

_READ_BYTES = 65536
#: How long a cell's end waits for what its processes have written already, in seconds.
_DRAIN_S = 10.0
_INT = struct.Struct("i")


class _Pipe:
    """The reading end of one cell's pipe."""

    def __init__(self, fd: int, header: Header, write: Write) -> None:
        self.fd = fd
        self._header, self._write = header, write
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.read_bytes = self.written_bytes = 0

    def waiting_bytes(self) -> int:
        """How much nobody has read yet."""
        size: int = _INT.unpack(fcntl.ioctl(self.fd, termios.FIONREAD, _INT.pack(0)))[0]
        return size

    def hand_over(self, data: bytes) -> None:
        """Write the text of ``data``, which is empty at the pipe's end."""
        text = self._decoder.decode(data, not data)
        if text:
            self._write(text, self._header)


class Reader:
    """The thread that reads all pipes of the kernel."""

    def __init__(self) -> None:
        self._pipes: Dict[int, _Pipe] = {}
        self._changed = threading.Condition()
        self._epoll = select.epoll()
        self._thread: Optional[threading.Thread] = None

    def add(self, pipe: _Pipe) -> None:
        """Read a pipe until nobody has its other end any more."""
        self._pipes[pipe.fd] = pipe
        self._epoll.register(pipe.fd, select.EPOLLIN)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="skyrl-pipes", daemon=True)
            self._thread.start()

    def drain(self, pipe: _Pipe) -> None:
        """Wait until what is in the pipe now was handed over."""
        if threading.current_thread() is self._thread:
            return
        with self._changed, contextlib.suppress(OSError, ValueError):  # it is closed: there is nothing in it
            target = pipe.read_bytes + pipe.waiting_bytes()
            self._changed.wait_for(lambda: pipe.written_bytes >= target, _DRAIN_S)

    def _run(self) -> None:
        while True:
            for fd, _ in self._epoll.poll():
                self._read(self._pipes[fd])

    def _read(self, pipe: _Pipe) -> None:
        with self._changed:
            data = os.read(pipe.fd, _READ_BYTES)
            pipe.read_bytes += len(data)
        with contextlib.suppress(Exception):  # the kernel is ending
            pipe.hand_over(data)
        with self._changed:
            pipe.written_bytes += len(data)
            if not data:
                del self._pipes[pipe.fd]
                self._epoll.unregister(pipe.fd)
                os.close(pipe.fd)
                pipe.fd = -1
            self._changed.notify_all()


class CellPipes:
    """One of the kernel's descriptors.

    Args:
        fd: 1 or 2.
        reader: reads what comes.
        write: takes it.
    """

    def __init__(self, fd: int, reader: Reader, write: Write) -> None:
        self._fd, self._reader, self._write = fd, reader, write
        self._pipe: Optional[_Pipe] = None

    def begin(self, header: Header) -> None:
        """What is written from now on belongs to the cell of this header."""
        try:
            read_end, write_end = os.pipe()
        except OSError:  # no descriptor is left: the last cell's goes on
            return
        os.dup2(write_end, self._fd)
        os.close(write_end)
        self._pipe = _Pipe(read_end, header, self._write)
        self._reader.add(self._pipe)

    def drain(self) -> None:
        """Wait until what was written by now was taken."""
        if self._pipe is not None:
            self._reader.drain(self._pipe)


class ByteStream(io.BufferedIOBase):
    """``sys.stdout.buffer``: bytes that are shown as text.

    Args:
        stream: where the text goes.
        header: of the cell that writes.
        write: as in :class:`CellPipes`.
    """

    def __init__(self, stream: io.TextIOBase, header: Callable[[], Header], write: Write) -> None:
        self._stream, self._header, self._write = stream, header, write
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._cell: Header = {}

    def write(self, data: Any) -> int:
        """Show ``data``; an incomplete character waits for its rest, as long as its cell writes."""
        if isinstance(data, str):
            raise TypeError("a bytes-like object is required, not 'str'")
        view = memoryview(data).cast("B")
        cell = self._header()
        if cell is not self._cell:
            rest, self._cell, before = self._decoder.decode(b"", True), cell, self._cell
            self._decoder.reset()
            if rest:
                self._write(rest, before)
        text = self._decoder.decode(view)
        if text:
            self._write(text, cell)
        return len(view)

    def flush(self) -> None:
        """As of the text."""
        self._stream.flush()

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """As of the text."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """As of the text."""
        return self._stream.isatty()
