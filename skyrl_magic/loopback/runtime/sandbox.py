"""One sandbox as the server sees it: its record, its keeper, its commands, its main process's output."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import os
import time
from pathlib import Path
from typing import Any

from skyrl_magic.loopback.documents import read_json, write_json
from skyrl_magic.loopback.runtime.exec import ExecProcess, ExecRequest
from skyrl_magic.loopback.runtime.input import StdinClosedError, StdinWriter
from skyrl_magic.loopback.runtime.link import KeeperLink, KeeperLostError
from skyrl_magic.loopback.runtime.output import CHUNK_BYTES
from skyrl_magic.loopback.runtime.spec import Folder, VolumeMount

#: The two families of calls by which Modal's client reaches sandboxes.
V1, V2 = 1, 2
#: How many ended commands of a sandbox can still be asked for.
KEEP_EXECS_COUNT = 1000


class SandboxError(Exception):
    """The sandbox could not be started; ``str()`` says why in one line."""


@dataclasses.dataclass
class SandboxMeta:
    """What is known of a sandbox beside its processes; kept on disk."""

    sandbox_id: str
    task_id: str
    version: int
    """``V1`` or ``V2``: which family of calls it was created by."""
    app_id: str
    name: str
    image_id: str
    gpu: str
    timeout_s: float
    workdir: str
    tags: dict[str, str]
    volumes: list[VolumeMount]
    created_at: float = dataclasses.field(default_factory=time.time)
    resources: dict[str, int] = dataclasses.field(default_factory=dict)
    """CPU and memory that were asked for, by Modal's names; they have no effect."""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> SandboxMeta:
        """The record that :meth:`to_json` wrote."""
        return cls(**{**row, "volumes": [VolumeMount(**volume) for volume in row["volumes"]]})


@dataclasses.dataclass(frozen=True)
class SandboxExit:
    """How a sandbox ended."""

    returncode: int
    reason: str
    """``exited``, ``terminated``, ``preempted``, ``timeout``, ``failed``, ``broken`` (by its image) or ``lost`` (its
    keeper died)."""
    error: str = ""
    ended_at: float = 0.0
    commit_error: str = ""
    left_out: str = ""
    """The files that the last commit left out, as they were too large or too many."""


class Sandbox:
    """A sandbox that lives, or has lived."""

    def __init__(self, folder: Folder, meta: SandboxMeta, env: dict[str, str]) -> None:
        self.folder = folder
        self.meta = meta
        self.env = env
        self.link: KeeperLink | None = None
        self.exit: SandboxExit | None = None
        self.told_end: tuple[str, str] | None = None
        """Status and message that its end is to be told with, where a test says so (``answers.Answers.killed_as``)."""
        self.queued = False
        """It waits for its machine, and has no task yet."""
        self.execs: dict[str, ExecProcess] = {}
        self.begun = asyncio.Event()
        """Its start is over, in one way or the other: it has its name before that, and who finds it by that waits."""
        self._ended = asyncio.Event()
        self._stdin: StdinWriter | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self.exit is None

    @property
    def task_id(self) -> str:
        """Its task's id as clients learn it: empty until it has its machine, and for one that ended before."""
        return "" if self.queued else self.meta.task_id

    def save(self) -> None:
        """Write the record."""
        write_json(self.folder.meta, self.meta.to_json())

    async def attach(self, link: KeeperLink) -> None:
        """Wait until the command of a new or found sandbox runs.

        Raises:
            SandboxError: It never began.
        """
        self.link = link
        await link.until(lambda: link.state.started or link.state.exit is not None or link.closed)
        self.begun.set()
        if link.state.exit is not None and link.state.exit["reason"] == "failed":
            raise SandboxError(link.state.exit["error"])
        if not link.state.started and link.state.exit is None:
            raise SandboxError(f"the sandbox's keeper died: see {self.folder.keeper_log}")

    async def follow(self) -> None:
        """Return when the sandbox is over; whoever calls it then calls :meth:`mark_ended`."""
        link = self.link
        if link is not None:
            await link.until(lambda: link.closed or link.state.exit is not None)

    def mark_ended(self, result: SandboxExit) -> None:
        """The sandbox is over; whoever waits for it learns how it ended."""
        self.exit = result
        self.begun.set()
        if self._stdin is not None:
            self._stdin.close()
        self._ended.set()

    async def wait(self, timeout_s: float | None) -> SandboxExit | None:
        """How it ended, or None if it has not within ``timeout_s``."""
        if self.exit is None and timeout_s != 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._ended.wait(), timeout_s)
        return self.exit

    async def wait_gone(self) -> None:
        """Return when its keeper has hung up: the last thing it does but for removing its files."""
        await self._ended.wait()
        link = self.link
        if link is not None:
            await link.until(lambda: link.closed)

    async def write_stdin(self, offset: int | None, data: bytes, *, eof: bool) -> None:
        """Write to the main process's stdin; without an offset behind what was written before.

        Raises:
            StdinClosedError: It was closed before, or the sandbox has ended.
            StdinGapError: The offset lies beyond what was written.
        """
        if self.link is None or self.exit is not None:
            raise StdinClosedError("the sandbox has ended")
        if self._stdin is None:
            try:
                descriptor = os.open(self.folder.stdin, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                raise StdinClosedError("the main process has closed its stdin") from None
            self._stdin = StdinWriter(descriptor, written_bytes=offset or 0)
        await self._stdin.write(self._stdin.written_bytes if offset is None else offset, data, eof=eof)
        if eof:
            self.link.end_stdin()

    def start_exec(self, exec_id: str, request: ExecRequest) -> ExecProcess:
        """Run a command; the same id again is the same command.

        Raises:
            KeeperLostError: The sandbox has ended.
            OSError: The command cannot be started.
        """
        process = self.execs.get(exec_id)
        if process is None:
            if self.link is None or self.exit is not None:
                raise KeeperLostError("the sandbox has ended")
            self._drop_old_execs()
            process = self.execs[exec_id] = ExecProcess(request, self.link.state.child_pid)
        return process

    def _drop_old_execs(self) -> None:
        ended = [exec_id for exec_id, process in self.execs.items() if process.exit.done()]
        for exec_id in ended[:-KEEP_EXECS_COUNT]:
            self.execs.pop(exec_id).close()

    async def read_output(self, stream: str, offset: int, timeout_s: float | None = None) -> bytes | None:
        """What the main process printed from ``offset`` on; empty at its end, None if nothing came in time."""
        path = self.folder.log(stream)
        link = self.link
        while True:
            over = link is None or self._is_over(stream)  # asked first: what came before it is in the file
            if data := _read(path, offset):
                return data
            if over or link is None:
                return b""
            news = link.until(functools.partial(self._has_output, link, stream, offset))
            try:
                await asyncio.wait_for(news, timeout_s)
            except asyncio.TimeoutError:
                return None

    def _has_output(self, link: KeeperLink, stream: str, offset: int) -> bool:
        return link.state.sizes[stream] > offset or self._is_over(stream)

    def _is_over(self, stream: str) -> bool:
        link = self.link
        if self.exit is not None or link is None or link.closed:
            return True
        return bool(link.state.child_pid) and stream not in link.state.open


def _read(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            return file.read(CHUNK_BYTES)
    except FileNotFoundError:
        return b""


def read_exit(folder: Folder) -> SandboxExit | None:
    """How the sandbox in this folder ended, or None if it may still live."""
    document = read_json(folder.exit)
    return None if document is None else SandboxExit(**document)
