"""An exec's stdin and stdout as bytes, each with one coroutine in the loop of modal's client.

modal's blocking interface crosses from thread to thread for each call and for each item of a stream; what a cell waits
for goes over few of these crossings. ``synchronizer`` is how modal itself makes its blocking functions; there is no
public way to have several of its calls done in one.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import modal
from modal._utils.async_utils import synchronizer

from skyrl_magic.cloud.errors import mapped
from skyrl_magic.core.errors import BackendError, BackendUnavailable, SessionLost

#: modal's client takes no more than 16 MiB at once into its buffer (``modal.io_streams``). In bytes.
_WRITE_BYTES = 1024 * 1024
#: How soon a write that hangs sees that the stream was given up, and how long the end of input may take. In seconds.
_LOOK_S = 0.2
_LEAVE_S = 1.0
_CHANNEL = "the channel to the session"


async def _send_all(process: Any, data: bytes, *, eof: bool) -> None:
    stdin = process.stdin
    for at in range(0, len(data), _WRITE_BYTES):
        stdin.write(data[at : at + _WRITE_BYTES])
        await stdin.drain()
    if eof:
        stdin.write_eof()
        await stdin.drain()


async def _receive_all(process: Any, take: Callable[[bytes], object]) -> None:
    async for data in process.stdout:
        take(data)


_send = synchronizer.create_blocking(_send_all, "send", __name__)
_receive = synchronizer.create_blocking(_receive_all, "receive", __name__)


class ModalStream:
    """The streams of one process; what it prints is taken from it whether or not somebody reads."""

    def __init__(self, process: modal.container_process.ContainerProcess[bytes]) -> None:
        self._process = process
        self._received: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._receiving: Future[None] = _receive(process, self._received.put, _future=True)
        self._receiving.add_done_callback(self._ended)

    def _ended(self, receiving: Future[None]) -> None:
        try:
            with mapped(_CHANNEL):
                receiving.result()
        except BaseException as error:  # noqa: BLE001  # read() raises it
            self._received.put(error)
        else:
            self._received.put(b"")

    def write(self, data: bytes) -> None:
        """Send ``data`` to the process's stdin."""
        if self._closed.is_set():
            raise BackendUnavailable(f"{_CHANNEL} is closed")
        try:
            with mapped(_CHANNEL):
                self._finish(_send(self._process, data, eof=False, _future=True))
        except ValueError as error:  # another thread closed it meanwhile
            raise BackendUnavailable(f"{_CHANNEL} is closed: {error}") from None

    def _finish(self, sending: Future[None]) -> None:
        """Wait for a write; modal tries one again for long where the server has gone, but not after :meth:`close`."""
        try:
            while not wait([sending], _LOOK_S).done:
                if self._closed.is_set():
                    raise BackendUnavailable(f"{_CHANNEL} is closed")
            sending.result()
        finally:
            sending.cancel()

    def read(self) -> bytes:
        """The next bytes of its stdout; empty at the end."""
        data = self._received.get()
        if isinstance(data, BaseException):
            raise data
        return b"" if self._closed.is_set() else data

    def close(self) -> None:
        """End its stdin, so that the process leaves."""
        if not self._closed.is_set():
            self._closed.set()
            self._received.put(b"")
            leaving = _send(self._process, b"", eof=True, _future=True)
            with contextlib.suppress(BackendError, SessionLost, ValueError), mapped(_CHANNEL):
                if wait([leaving], _LEAVE_S).done:
                    leaving.result()
            leaving.cancel()
            self._receiving.cancel()
