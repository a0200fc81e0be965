"""A TCP proxy between modal's client and a server, which cuts every connection at a byte that a test names."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import final

_READ_BYTES = 65_536
#: Closed so, a socket sends a reset and drops what it has not sent (``SO_LINGER`` in socket(7)).
_RESET = struct.pack("ii", 1, 0)


@final
class Proxy:
    """A context manager; it listens on 127.0.0.1 and carries each connection to ``target_port`` there."""

    def __init__(self) -> None:
        self.target_port = 0
        self.carried_bytes = 0
        """In both directions, since it began."""
        self.cuts = 0
        self._cut_at: int | None = None
        self._reset = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._loop.close()

    def cut_after(self, more_bytes: int, *, reset: bool) -> None:
        """Cut all connections once, when so many more bytes have been carried: by a reset, else by an orderly end."""
        self._loop.call_soon_threadsafe(self._arm, more_bytes, reset)

    def disarm(self) -> None:
        """Forget a cut that has not come."""
        self._loop.call_soon_threadsafe(self._arm, None, False)

    def _arm(self, more_bytes: int | None, reset: bool) -> None:  # noqa: FBT001 - call_soon takes positions only
        self._cut_at = None if more_bytes is None else self.carried_bytes + more_bytes
        self._reset = reset

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._listener)
        await self._stopped.wait()
        server.close()
        self._close_all()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:  # the server is not there: neither is this connection
            writer.close()
            return
        for each in (writer, far_writer):
            each.transport.set_write_buffer_limits(high=0)  # what drain() has seen off is with the system
            self._writers.add(each)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            pump = asyncio.create_task(self._carry(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_READ_BYTES):
                room = len(data) if self._cut_at is None else self._cut_at - self.carried_bytes
                self.carried_bytes += min(room, len(data))
                sink.write(data[:room])
                await sink.drain()
                if self._cut_at is not None and self.carried_bytes >= self._cut_at:
                    self._cut_at = None
                    self.cuts += 1
                    self._close_all()
                    return
        self._close(sink)

    def _close_all(self) -> None:
        for writer in list(self._writers):
            self._close(writer)

    def _close(self, writer: asyncio.StreamWriter) -> None:
        if self._reset:
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._writers.discard(writer)
        writer.close()
