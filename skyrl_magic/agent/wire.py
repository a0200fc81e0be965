"""Frames over non-blocking descriptors, and unix sockets whose path may be long."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import selectors
import socket
from pathlib import Path
from typing import Callable, Deque, Iterator, Optional, Tuple

from skyrl_magic.core import protocol

#: Largest read from a channel at one go, in bytes; other events get their turn between two.
READ_BYTES = 256 * 1024
#: ``sun_path`` holds 108 bytes with its closing zero.
_MAX_SOCKET_PATH_BYTES = 107
_MAX_PIECES = 64
#: A channel that gathers frames writes when it has so much, in bytes.
_GATHERED_BYTES = 64 * 1024

#: What a selector's keys hold: it takes the mask of the events that came.
Callback = Callable[[int], None]


def dispatch(selector: selectors.BaseSelector, timeout_s: Optional[float]) -> None:
    """Wait for events and call their callbacks, but none that an earlier one of this batch took away."""
    for key, mask in selector.select(timeout_s):
        now = selector.get_map().get(key.fd)
        if now is not None and now.data == key.data:
            key.data(mask)


class Channel:
    """Frames in and out of one descriptor (a socket) or two (stdin and stdout), without ever blocking.

    Args:
        selector: where the channel registers itself; the data of its keys is a callback that takes the event mask.
        read_fd: where frames come from; owned by the caller.
        write_fd: where frames go; may be the same descriptor.
        on_message: called for every frame.
        on_close: called once with the reason, None for a plain end of stream.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        read_fd: int,
        write_fd: int,
        on_message: Callable[[protocol.Message], None],
        on_close: Callable[[Optional[Exception]], None],
    ) -> None:
        self._selector = selector
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._on_message = on_message
        self._on_close = on_close
        self.gathers = False
        """Frames wait for :meth:`flush`, unless they are many: each write wakes every process on the way."""
        self._decoder = protocol.FrameDecoder()
        self._out: Deque[memoryview] = collections.deque()
        self._wants_write = False
        self._when_flushed: Optional[Callable[[], None]] = None
        self.closed = False
        self.queued_bytes = 0
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        selector.register(read_fd, selectors.EVENT_READ, self._ready)

    def send(self, message: protocol.Message) -> None:
        """Queue one frame and write what the descriptor takes at once. After the end it is dropped."""
        if self.closed:
            return
        data = protocol.encode(message)
        self._out.append(memoryview(data))
        self.queued_bytes += len(data)
        if not self._wants_write and (not self.gathers or self.queued_bytes >= _GATHERED_BYTES):
            self._flush()

    def flush(self) -> None:
        """Write what was gathered, as far as the descriptor takes it."""
        if self._out and not self._wants_write and not self.closed:
            self._flush()

    def finish(self, when_flushed: Callable[[], None]) -> None:
        """Call ``when_flushed`` once everything queued is written."""
        if not self.closed:
            self._when_flushed = when_flushed
            self._flush()

    def close(self, reason: Optional[Exception] = None) -> None:
        """Leave the selector and tell the owner, who closes the descriptors."""
        if self.closed:
            return
        self.closed = True
        self._selector.unregister(self._read_fd)
        if self._wants_write and self._write_fd != self._read_fd:
            self._selector.unregister(self._write_fd)
        self._on_close(reason)

    def _ready(self, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._flush()
        if mask & selectors.EVENT_READ and not self.closed:
            self._read()

    def _read(self) -> None:
        try:
            data = os.read(self._read_fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.close(error)
            return
        if not data:
            self.close()
            return
        try:
            for message in self._decoder.feed(data):
                if self.closed:
                    return
                self._on_message(message)
        except protocol.ProtocolError as error:
            self.close(error)

    def _flush(self) -> None:
        try:
            while self._out:
                self._written(os.writev(self._write_fd, list(itertools.islice(self._out, _MAX_PIECES))))
        except BlockingIOError:
            pass
        except OSError as error:
            self.close(error)
            return
        self._watch_writability(wanted=bool(self._out))
        if not self._out and self._when_flushed is not None:
            done, self._when_flushed = self._when_flushed, None
            done()

    def _written(self, count: int) -> None:
        self.queued_bytes -= count
        while count:
            piece = self._out[0]
            if count < len(piece):
                self._out[0] = piece[count:]
                return
            count -= len(piece)
            self._out.popleft()

    def _watch_writability(self, *, wanted: bool) -> None:
        if wanted == self._wants_write:
            return
        self._wants_write = wanted
        if self._write_fd == self._read_fd:
            mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
            self._selector.modify(self._read_fd, mask, self._ready)
        elif wanted:
            self._selector.register(self._write_fd, selectors.EVENT_WRITE, self._ready)
        else:
            self._selector.unregister(self._write_fd)


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """An address for ``path`` that fits into ``sun_path``, through a descriptor of its folder where it must."""
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def listen_unix(path: Path, backlog: int = 64) -> socket.socket:
    """A non-blocking listening socket at ``path``, for this user only; a stale one is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.unlink(missing_ok=True)
    with _address(path) as address:
        listener.bind(address)
    path.chmod(0o600)
    listener.listen(backlog)
    listener.setblocking(False)
    return listener


def connect_unix(path: Path) -> socket.socket:
    """A non-blocking connection to the socket at ``path``. Raises ``OSError`` where nobody listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(path) as address:
            connection.connect(address)
    except OSError:
        connection.close()
        raise
    connection.setblocking(False)
    return connection


def wakeup_pair() -> Tuple[socket.socket, socket.socket]:
    """Both ends of a non-blocking socket pair; signals are turned into events through it."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs
