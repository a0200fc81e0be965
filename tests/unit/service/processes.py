"""A backend of ordinary processes: the real agent on this machine, each "container" a folder and a process tree.

``core.ports`` over a socket pair for each exec: another transport than Modal's, and as real.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from skyrl_magic.core import contract
from skyrl_magic.core.cancel import Cancel
from skyrl_magic.core.ends import End, How
from skyrl_magic.core.errors import AlreadyExists, BackendUnavailable, SessionLost
from skyrl_magic.core.ports import MountedVolume, SandboxRequest
from tests.unit.service.folder_volume import FolderVolume

#: Generous: the machine may be busy. Nothing waits this long when things work.
DEADLINE_S = 60.0
REPOSITORY = Path(__file__).resolve().parents[3]


class ProcessStream:
    """``core.ports.ByteStream`` of a process on this machine."""

    def __init__(self, command: list[str]) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            fd = theirs.fileno()
            self.process = subprocess.Popen(command, stdin=fd, stdout=fd, stderr=subprocess.DEVNULL)

    def write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise BackendUnavailable(f"the process takes nothing: {error.strerror}") from None

    def read(self) -> bytes:
        try:
            return self._socket.recv(1 << 20)
        except OSError as error:
            raise BackendUnavailable(f"the process sends nothing: {error.strerror}") from None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Kill the process and let go of everything."""
        self.close()
        self.process.kill()
        self.process.wait()
        self._socket.close()


class ProcessSandbox:
    """``core.ports.Sandbox``: a supervisor whose paths of the contract lie in ``folder``."""

    def __init__(self, request: SandboxRequest, folder: Path, volume: Path, mounted: MountedVolume) -> None:
        self.request = request
        self.folder = folder
        self.checkout = folder / "SkyRL"
        self.volume = volume
        self.streams: list[ProcessStream] = []
        self._paths = {
            "python3": sys.executable,
            contract.AGENT_PATH: str(request.agent),
            contract.STATE_DIR: str(folder / "state"),
        }
        self._fill()
        self._log = folder / "supervisor.log"
        command = self._here(request.command(mounted))
        command[-1] = self._config(command[-1])
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._reaper = threading.Thread(target=self._reap, daemon=True)
        self._reaper.start()

    @property
    def id(self) -> str:
        return str(self.process.pid)

    @property
    def app(self) -> str:
        return self.request.spec.app

    def revive(self) -> bool:
        return False

    def exec(self, args: Sequence[str]) -> ProcessStream:
        if self.poll() is not None:
            raise SessionLost(f"the container has ended (exit code {self.poll()})")
        stream = ProcessStream(self._here(args))
        self.streams.append(stream)
        if self.poll() is not None:  # ended meanwhile: who ends its streams may not have seen this one
            stream.end()
            raise SessionLost(f"the container has ended (exit code {self.poll()})")
        return stream

    def is_queued(self) -> bool:
        return False

    def poll(self) -> int | None:
        return self.process.poll()

    def end(self) -> End | None:
        code = self.poll()
        return None if code is None else End(How.EXITED, code)

    def tags(self) -> Mapping[str, str]:
        return self.request.tags

    def last_output(self) -> str:
        return "" if self.poll() is None else self._log.read_text()

    def terminate(self) -> None:
        """As a container ends: every process of it, at once."""
        if self.process.poll() is None:
            for process in self._tree():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self._reaper.join(DEADLINE_S)
        for stream in self.streams:
            stream.end()

    def _reap(self) -> None:
        """A container's execs end with its main process."""
        self.process.wait()
        for stream in list(self.streams):
            stream.process.kill()

    @property
    def supervisor(self) -> psutil.Process:
        """The child of the first process, which watches it."""
        [supervisor] = psutil.Process(self.process.pid).children()
        return supervisor

    def _tree(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):  # another thread has ended it meanwhile
            first = psutil.Process(self.process.pid)
            for process in (first, *first.children()):
                process.suspend()  # it starts nothing while its children are listed
            return [*first.children(recursive=True), first]
        return []

    def _here(self, args: Sequence[str]) -> list[str]:
        return [self._paths.get(word, word) for word in args]

    def _fill(self) -> None:
        self.folder.mkdir(parents=True)
        self.volume.mkdir(parents=True, exist_ok=True)
        upload = self.request.upload
        if upload is not None:
            (self.folder / "checkout.json").write_bytes(upload.manifest)
            for path in upload.paths:
                (self.checkout / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(upload.root / path, self.checkout / path)

    def _config(self, text: str) -> str:
        config = json.loads(text)
        config |= {
            "state_dir": str(self.folder / "state"),
            "checkout_dir": str(self.checkout),
            "volume_dir": str(self.volume),
            "volume_link": str(self.folder / "home" / "data"),
            "home_dir": str(self.folder / "home"),
            "infra_log_dir": str(self.folder / "tmp" / "skyrl-logs"),
            "manifest_path": str(self.folder / "checkout.json"),
        }
        return json.dumps(config)


class ProcessBackend:
    """``core.ports.Backend`` of such sandboxes. ``before`` hears of each phase and may raise."""

    name = "local"
    account = ""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.made: list[ProcessSandbox] = []
        self.volume_version = 2
        self.whose: str | None = "ann (us-1)"
        self.before: Callable[[str], object] = lambda _: None
        self.heeds = True
        """It hears that a creation was given up."""

    def owner(self) -> str | None:
        return self.whose

    def create(self, request: SandboxRequest, on_phase: Callable[[str], None], cancel: Cancel) -> ProcessSandbox:
        for phase in ("image", "checkout", "container"):
            on_phase(phase)
            self.before(phase)
            if self.heeds:
                cancel.check()
        if self.find(request.spec.app, request.name) is not None:
            raise AlreadyExists(f"there is a sandbox {request.name}; choose another name")
        volume = self._volume_folder(request.spec.volume)
        mounted = MountedVolume(self.volume_version, is_new=not volume.exists())
        sandbox = ProcessSandbox(request, self._folder / f"c{len(self.made)}", volume, mounted)
        self.made.append(sandbox)
        return sandbox

    def find(self, app: str, name: str) -> ProcessSandbox | None:
        running = (s for s in self.made if (s.request.spec.app, s.request.name) == (app, name) and s.poll() is None)
        return next(running, None)

    def list(self, tags: Mapping[str, str]) -> Sequence[ProcessSandbox]:
        return [s for s in self.made if s.poll() is None and tags.items() <= s.request.tags.items()]

    def volume(self, name: str) -> FolderVolume:
        return FolderVolume(self._volume_folder(name))

    def _volume_folder(self, name: str) -> Path:
        return self._folder / "volumes" / name

    def close(self) -> None:
        for sandbox in self.made:
            sandbox.terminate()
