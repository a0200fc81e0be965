"""The server's end of the connection to a sandbox's keeper."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skyrl_magic.loopback.runtime import children
from skyrl_magic.loopback.runtime.spec import Folder, KeeperSpec

#: What the keeper runs: this package, without the user's site packages in front of the standard library.
_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from skyrl_magic.loopback.runtime.keeper import main; main()"
_PACKAGE_ROOT = Path(__file__).resolve().parents[3]
_LINE_BYTES = 1024 * 1024


class KeeperLostError(Exception):
    """The keeper is gone and has not said how its sandbox ended."""


class KeeperRefusedError(Exception):
    """The keeper could not do it; ``str()`` is its reason."""


@dataclasses.dataclass
class KeeperState:
    """What the keeper last said."""

    child_pid: int = 0
    started: bool = False
    network: str = ""
    """Why the sandbox has no outbound network; empty if it has, or did not ask for one."""
    sizes: dict[str, int] = dataclasses.field(default_factory=lambda: {"stdout": 0, "stderr": 0})
    open: list[str] = dataclasses.field(default_factory=list)
    """The streams of the main process to which more may come."""
    exit: dict[str, Any] | None = None


class KeeperLink:
    """One connection. ``changed`` is notified of every new state, and at the end."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.state = KeeperState()
        self.closed = False
        self.changed = asyncio.Condition()
        self._connection = connection
        self._replies: dict[int, asyncio.Future[str]] = {}
        self._numbers = itertools.count(1)
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self, spec: KeeperSpec | None = None) -> None:
        """Begin to listen; a fresh keeper is told its spec first."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._connection, limit=_LINE_BYTES)
        if spec is not None:
            self._writer.write(json.dumps(spec.to_json()).encode() + b"\n")
            await self._writer.drain()
        self._task = asyncio.create_task(self._listen(reader))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                message = json.loads(line)
                if "reply" in message:
                    future = self._replies.pop(message["reply"], None)
                    if future is not None and not future.done():
                        future.set_result(message["error"])
                    continue
                self.state = KeeperState(**message)
                async with self.changed:
                    self.changed.notify_all()
        except ConnectionError:
            pass
        finally:
            await self._end()

    async def _end(self) -> None:
        self.closed = True
        for future in self._replies.values():
            if not future.done():
                future.set_exception(KeeperLostError("the sandbox has ended"))
        async with self.changed:
            self.changed.notify_all()

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Return when ``predicate`` holds, which is looked at after every new state and at the end."""
        async with self.changed:
            await self.changed.wait_for(predicate)

    def terminate(self, *, preempted: bool = False) -> None:
        """Ask the keeper to end its sandbox, as its machine is taken away or for whatever reason.

        One that is gone needs no asking.
        """
        self._send({"op": "terminate", "preempted": preempted})

    def end_stdin(self) -> None:
        """Let the keeper close its end of the main process's stdin; ours must be closed too."""
        self._send({"op": "end_stdin"})

    async def ask(self, operation: str) -> None:
        """Let the keeper ``reload`` or ``commit`` the volumes and wait for it.

        Raises:
            KeeperRefusedError: It could not.
            KeeperLostError: The sandbox ended meanwhile.
        """
        if self.closed:
            raise KeeperLostError("the sandbox has ended")
        number = next(self._numbers)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._replies[number] = future
        self._send({"op": operation, "id": number})
        if error := await future:
            raise KeeperRefusedError(error)

    def _send(self, message: dict[str, Any]) -> None:
        if self._writer is not None and not self.closed:
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def close(self) -> None:
        """Hang up; the keeper goes on."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()


async def spawn(folder: Folder, spec: KeeperSpec) -> KeeperLink:
    """Start a keeper that does not depend on this process."""
    ours, theirs = socket.socketpair()
    log = os.open(folder.keeper_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Not asyncio's subprocesses: they kill what still runs when the event loop is closed.
        process = subprocess.Popen(  # noqa: ASYNC220 - 2 ms
            [sys.executable, "-I", "-S", "-c", _PROGRAM, str(_PACKAGE_ROOT), str(folder.path)],
            stdin=theirs.fileno(),
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    finally:
        os.close(log)
        theirs.close()
    children.watch(process)
    link = KeeperLink(ours)
    await link.open(spec)
    return link


async def connect(folder: Folder) -> KeeperLink:
    """Find the keeper of a sandbox that another server started.

    Raises:
        OSError: There is none.
    """
    connection = socket.socket(socket.AF_UNIX)
    directory = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # A socket's path holds 107 bytes, a state directory's may be longer.
        connection.connect(f"/proc/self/fd/{directory}/{folder.socket.name}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(directory)
    link = KeeperLink(connection)
    await link.open()
    return link
