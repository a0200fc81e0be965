"""All sandboxes of one server: created, found again after a restart, looked up, ended."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import os
import secrets
import select
import signal
import string
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from skyrl_magic.loopback.documents import new_id, read_json, write_json
from skyrl_magic.loopback.layout import Layout
from skyrl_magic.loopback.pretend import LOOK_S, Machine, Pretend
from skyrl_magic.loopback.runtime import host, interpreter, link, processes, rootfs, shown_etc
from skyrl_magic.loopback.runtime.host import HostError
from skyrl_magic.loopback.runtime.mounted import LastCommit, MountedVolumes, leave_end, remove_living, remove_tree
from skyrl_magic.loopback.runtime.rootfs import RootfsError
from skyrl_magic.loopback.runtime.sandbox import V1, V2, Sandbox, SandboxError, SandboxExit, SandboxMeta, read_exit
from skyrl_magic.loopback.runtime.spec import PREFIXES_VARIABLE, Folder, KeeperSpec, VolumeMount
from skyrl_magic.loopback.volumes import VolumeMissingError

log = logging.getLogger(__name__)

#: How long the record and the output of an ended sandbox are kept, in seconds, and how many at most.
KEEP_ENDED_S = 7 * 24 * 3600.0
KEEP_ENDED_COUNT = 500
#: How long after a write a volume of version 1 is committed at the latest, in seconds; the variable overrides it.
COMMIT_LAG_S = 5.0
COMMIT_LAG_VARIABLE = "SKYRL_MAGIC_LOOPBACK_COMMIT_LAG_S"
#: A sandbox without a command waits to be used, as Modal's does.
IDLE_COMMAND = ("sleep", "infinity")


class NameTakenError(Exception):
    """A running sandbox of the app has this name."""


@dataclasses.dataclass(frozen=True)
class SandboxRequest:
    """What to create."""

    version: int
    app_id: str
    name: str
    tags: Mapping[str, str]
    image_id: str
    gpu: str
    resources: dict[str, int]
    """CPU and memory, by Modal's names (``milli_cpu``, ``memory_mb_max``)."""
    gpu_count: int
    arguments: Sequence[str]
    env: Mapping[str, str]
    """Of the image and the secrets; what the machine gives is added."""
    workdir: str
    timeout_s: float
    network: bool
    files: Sequence[tuple[str, Path, int]]
    """Path in the container, content, mode."""
    volumes: Sequence[VolumeMount]
    broken: str = ""
    """Why its image does not start; empty where it does."""
    python: bool = True
    """Whether a Python is on its PATH."""


class NoMachineError(Exception):
    """No machine is given to this sandbox; ``str()`` says why in one line."""


class SandboxRuntime:
    """The sandboxes of one state directory. Only the server's event loop calls it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._commit_lag_s = float(os.environ.get(COMMIT_LAG_VARIABLE) or COMMIT_LAG_S)
        self._layout = Layout(root)
        self._pretend = Pretend(root)
        self._sandboxes: dict[str, Sandbox] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def start(self) -> None:
        """Find the sandboxes that live and those that ended while no server ran."""
        await asyncio.to_thread(self._prune)
        found = [Folder(path) for path in sorted(self._layout.sandboxes.iterdir()) if path.is_dir()]
        for folder, outcome in zip(
            found, await asyncio.gather(*(self._find(folder) for folder in found), return_exceptions=True), strict=True
        ):
            if isinstance(outcome, Exception):
                log.error("the sandbox in %s cannot be read: removing it", folder.path, exc_info=outcome)
                await asyncio.to_thread(_end_processes, folder)
                await asyncio.to_thread(remove_tree, folder.path)
        if self.alive_count() == 0:  # else one of them may be in use
            await asyncio.to_thread(remove_tree, self._layout.etc)

    async def close(self) -> None:
        """Hang up. Living sandboxes go on."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sandbox in self._sandboxes.values():
            if sandbox.link is not None:
                await sandbox.link.close()

    async def terminate_all(self) -> None:
        """End every sandbox and return when all are gone."""
        living = [sandbox for sandbox in self if sandbox.is_alive]
        await asyncio.gather(*(self.terminate(sandbox) for sandbox in living))
        await asyncio.gather(*(sandbox.wait_gone() for sandbox in living))

    async def terminate(self, sandbox: Sandbox, wait_s: float | None = None) -> None:
        """End a sandbox, whether it runs or still waits for its machine; return when it has ended, or after ``wait_s``.

        One that is about to start is ended as soon as it has.
        """
        if sandbox.queued and sandbox.is_alive:
            sandbox.mark_ended(SandboxExit(137, "terminated", "it had no machine yet", time.time()))
            return
        await sandbox.begun.wait()
        if sandbox.link is not None and sandbox.is_alive:
            sandbox.link.terminate()
        await sandbox.wait(wait_s)

    def alive_count(self) -> int:
        """How many sandboxes live."""
        return sum(sandbox.is_alive for sandbox in self)

    def __iter__(self) -> Iterator[Sandbox]:
        """All sandboxes, the newest first."""
        return iter(sorted(self._sandboxes.values(), key=lambda sandbox: -sandbox.meta.created_at))

    def get(self, sandbox_id: str) -> Sandbox | None:
        """The sandbox with this id, or None."""
        return self._sandboxes.get(sandbox_id)

    def living(self, app_id: str) -> list[Sandbox]:
        """The sandboxes of an app that have not ended, the newest first."""
        return [sandbox for sandbox in self if sandbox.is_alive and sandbox.meta.app_id == app_id]

    def by_task(self, task_id: str) -> Sandbox | None:
        """The sandbox whose task has this id, or None."""
        return next((sandbox for sandbox in self if sandbox.meta.task_id == task_id), None)

    def by_name(self, app_id: str, name: str, *, ended: bool = False) -> Sandbox | None:
        """The living sandbox of the app with this name, or None; with ``ended``, else the last one that had it."""
        matching = [s for s in self if s.meta.app_id == app_id and s.meta.name == name]
        living = next((sandbox for sandbox in matching if sandbox.is_alive), None)
        return living or (matching[0] if matching and ended else None)

    async def create(self, request: SandboxRequest) -> Sandbox:
        """Start a sandbox; its command runs when this returns.

        One that is to wait for its machine (``pretend``) is returned at once where it is a V1 one, and starts later.

        Raises:
            NameTakenError: A running sandbox of the app has the name.
            NoMachineError: It is refused a machine.
            HostError: This machine cannot run sandboxes.
            RootfsError: A path cannot be given.
            SandboxError: It did not start.
            OSError: The disk is full.
            VolumeMissingError: A volume does not exist.
        """
        host.require_programs()
        machine = self._machine(request)
        await asyncio.sleep(machine.slow_s)
        if machine.refuse:
            raise NoMachineError(machine.refuse)
        if request.name and self.by_name(request.app_id, request.name) is not None:
            raise NameTakenError(request.name)
        prefixes = interpreter.prefixes(request.env)
        sandbox = self._new(request, prefixes[0])
        # From here on the name is taken, whatever the order in which others come.
        self._sandboxes[sandbox.meta.sandbox_id] = sandbox
        if machine.wait_s != 0:
            sandbox.queued = True
            starting = self._keep(self._start_later(sandbox, request, prefixes))
            if request.version == V2:
                await asyncio.wait({starting})
            return sandbox
        try:
            await self._start(sandbox, request, prefixes)
        except BaseException:
            del self._sandboxes[sandbox.meta.sandbox_id]
            raise
        return sandbox

    def _machine(self, request: SandboxRequest) -> Machine:
        return self._pretend.machine(request.gpu, request.gpu_count)

    async def _start(self, sandbox: Sandbox, request: SandboxRequest, prefixes: Sequence[Path]) -> None:
        """Raises as :meth:`create`; nothing is left of the sandbox then."""
        if request.broken:
            sandbox.mark_ended(SandboxExit(1, "broken", request.broken, time.time()))
            return
        try:
            etc = await asyncio.to_thread(self._prepare, sandbox, request)
            spec = self._spec(sandbox, request, prefixes, etc)
            await sandbox.attach(await link.spawn(sandbox.folder, spec))
        except BaseException:
            sandbox.begun.set()
            await asyncio.shield(self._discard(sandbox))
            raise
        self._watch(sandbox)
        if sandbox.link is not None and sandbox.link.state.network:
            log.info("%s has no outbound network: %s", sandbox.meta.sandbox_id, sandbox.link.state.network)
        preempt_s = self._machine(request).preempt_s
        if preempt_s is not None and sandbox.link is not None:
            asyncio.get_running_loop().call_later(preempt_s, functools.partial(sandbox.link.terminate, preempted=True))

    async def _start_later(self, sandbox: Sandbox, request: SandboxRequest, prefixes: Sequence[Path]) -> None:
        """Start a sandbox when its machine is there, unless somebody ends it before."""
        began_s = time.monotonic()
        while not self._has_come(self._machine(request), time.monotonic() - began_s):
            if await sandbox.wait(LOOK_S) is not None:
                return
        sandbox.queued = False
        try:
            await self._start(sandbox, request, prefixes)
        except (HostError, RootfsError, SandboxError, VolumeMissingError, OSError) as error:
            sandbox.mark_ended(SandboxExit(1, "broken", str(error), time.time()))

    @staticmethod
    def _has_come(machine: Machine, waited_s: float) -> bool:
        return machine.wait_s is not None and waited_s >= machine.wait_s

    def _new(self, request: SandboxRequest, prefix: Path) -> Sandbox:
        sandbox_id, task_id = _new_ids(request.version)
        meta = SandboxMeta(
            sandbox_id=sandbox_id,
            task_id=task_id,
            version=request.version,
            app_id=request.app_id,
            name=request.name,
            image_id=request.image_id,
            gpu=request.gpu,
            resources=request.resources,
            timeout_s=request.timeout_s,
            workdir=request.workdir or "/root",
            tags=dict(request.tags),
            volumes=list(request.volumes),
        )
        env = {**host.system_env(), **request.env}
        env.pop(PREFIXES_VARIABLE, None)
        env["PATH"] = f"{prefix / 'bin'}:{env['PATH']}" if request.python else rootfs.BIN_WITHOUT_PYTHON
        env |= {"MODAL_SANDBOX_ID": sandbox_id, "MODAL_TASK_ID": task_id}
        return Sandbox(Folder(self._layout.sandboxes / sandbox_id), meta, env)

    def _prepare(self, sandbox: Sandbox, request: SandboxRequest) -> Path:
        """Make its files; return what it sees as /etc."""
        folder = sandbox.folder
        folder.path.mkdir(mode=0o700)
        rootfs.build(folder, request.files, [sandbox.meta.workdir])
        if not request.python:
            rootfs.link_all_but_python(folder)
        MountedVolumes(folder, self._root, sandbox.meta.volumes).prepare()
        write_json(folder.env, sandbox.env)
        sandbox.save()
        return shown_etc.copy(self._layout.etc)

    def _spec(self, sandbox: Sandbox, request: SandboxRequest, prefixes: Sequence[Path], etc: Path) -> KeeperSpec:
        meta = sandbox.meta
        problem = host.network_problem() if request.network else "it was created without"
        return KeeperSpec(
            state_root=str(self._root),
            options=rootfs.options(sandbox.folder, sandbox.env, meta.volumes, prefixes, etc),
            command=rootfs.command(meta.workdir, request.arguments or IDLE_COMMAND),
            timeout_s=meta.timeout_s,
            network=not problem,
            no_network=problem,
            volumes=meta.volumes,
            commit_lag_s=self._commit_lag_s,
            memory_bytes=meta.resources.get("memory_mb_max", 0) << 20,
        )

    async def _discard(self, sandbox: Sandbox) -> None:
        if sandbox.link is not None:
            sandbox.link.terminate()
            await sandbox.follow()
            await sandbox.link.until(lambda: sandbox.link is None or sandbox.link.closed)
            await sandbox.link.close()
        await asyncio.to_thread(remove_tree, sandbox.folder.path)

    def _keep(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something until it is over, or the server ends."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _watch(self, sandbox: Sandbox) -> None:
        self._keep(self._follow(sandbox))

    async def _follow(self, sandbox: Sandbox) -> None:
        await sandbox.follow()
        result = read_exit(sandbox.folder)
        if result is None and sandbox.link is not None and sandbox.link.state.exit is not None:
            result = SandboxExit(**sandbox.link.state.exit)  # the disk is full: it is told, and not written down
        if result is None and not self._closing:
            log.warning("the keeper of %s died: ending it", sandbox.meta.sandbox_id)
            result = await asyncio.to_thread(_bury, sandbox.folder, sandbox.meta, self._root)
        if result is not None:
            if result.commit_error:
                log.error("the last commit of %s failed: %s", sandbox.meta.sandbox_id, result.commit_error)
            if result.left_out:
                where = sandbox.folder.volumes
                log.error("the last commit of %s left out %s: see %s", sandbox.meta.sandbox_id, result.left_out, where)
            sandbox.mark_ended(result)

    # --- after a restart --------------------------------------------------------------------------------------------

    def _prune(self) -> None:
        ended = [path for path in self._layout.sandboxes.iterdir() if (path / "exit.json").exists()]
        ended.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        deadline = time.time() - KEEP_ENDED_S
        for index, path in enumerate(ended):
            if index >= KEEP_ENDED_COUNT or path.stat().st_mtime < deadline:
                remove_tree(path)

    async def _find(self, folder: Folder) -> None:
        document = read_json(folder.meta)
        if document is None:  # its creation was cut short, before there was a keeper
            await asyncio.to_thread(remove_tree, folder.path)
            return
        sandbox = Sandbox(folder, SandboxMeta.from_json(document), read_json(folder.env) or {})
        self._sandboxes[sandbox.meta.sandbox_id] = sandbox
        result = read_exit(folder)
        if result is None:
            try:
                await sandbox.attach(await link.connect(folder))
            except (OSError, SandboxError):
                result = read_exit(folder) or await asyncio.to_thread(_bury, folder, sandbox.meta, self._root)
        if result is not None:
            sandbox.mark_ended(result)
        else:
            self._watch(sandbox)


def _new_ids(version: int) -> tuple[str, str]:
    """Sandbox id and task id. The client tells the families apart by them: 22 letters are V1, a last ``V`` V2."""
    if version == V1:
        task_id = new_id("ta")
        return new_id("sb"), task_id[:-1] + "0" if task_id.endswith("V") else task_id
    letters = "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(26))
    return f"sb-{letters}", f"ta-{letters}V"


def _bury(folder: Folder, meta: SandboxMeta, root: Path) -> SandboxExit:
    """Do what a keeper that died has left undone: end the processes, commit, write down the end."""
    _end_processes(folder)

    def commit() -> LastCommit:
        return MountedVolumes(folder, root, meta.volumes).commit_last()

    end = dataclasses.asdict(SandboxExit(137, "lost", "its keeper died", time.time(), *commit()))
    leave_end(folder, end, commit)
    remove_living(folder, keep_volumes=bool(end["commit_error"] or end["left_out"]))
    folder.socket.unlink(missing_ok=True)
    return SandboxExit(**end)


def _end_processes(folder: Folder) -> None:
    document: dict[str, Any] = read_json(folder.pids) or {}
    pid, ticks = document.get("child", (0, 0))
    if not pid:
        return
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            # Looked at through the descriptor's life, so that it is never another process with the same pid.
            if processes.is_alive(pid, ticks):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                select.select([descriptor], [], [], 10)
        finally:
            os.close(descriptor)
