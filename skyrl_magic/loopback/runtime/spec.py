"""What the server tells a sandbox's keeper, and how its folder is laid out. Standard library only."""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePosixPath
from typing import Any

#: Where the container finds its keeper's mailbox and the wrapper of ``sync``.
CONTROL_DIR = "/run/skyrl_loopback"
#: Pipe in the control directory, through which processes of the sandbox ask the keeper for something.
REQUESTS_NAME = "requests"
#: The same as processes of the sandbox see it, who may ask for a commit themselves (``replies``).
MAILBOX = f"{CONTROL_DIR}/{REQUESTS_NAME}"
#: Pipe from which the container's script reads one line before it becomes the user's command.
GO_NAME = "go"
#: File in which a sandbox reads why it has no outbound network; empty where it has.
NETWORK_NAME = "network"
#: File that all sandboxes of a user on this machine share; who locks it (flock) has the machine's only turn.
MACHINE_LOCK = f"{CONTROL_DIR}/machine.lock"
#: Variable of a sandbox by which its creator says which Python it has: the folders ``sys.prefix`` and
#: ``sys.base_prefix``, joined by ``os.pathsep``. The sandbox itself does not see it.
PREFIXES_VARIABLE = "SKYRL_LOOPBACK_PREFIXES"
#: First words of the requests: the container's root is ready; volumes are to be committed.
READY = "ready"
COMMIT = "commit"


@dataclasses.dataclass(frozen=True)
class VolumeMount:
    """A volume in a sandbox."""

    volume_id: str
    mount_path: str
    sub_path: str = ""
    read_only: bool = False
    version: int = 2

    @property
    def is_v1(self) -> bool:
        """Whether it is committed in the background and at the end only; else a ``sync`` in the sandbox commits."""
        return self.version == 1


def is_below(path: str, mount: VolumeMount) -> bool:
    """Whether this path of the sandbox lies on the volume."""
    return PurePosixPath(path).is_relative_to(mount.mount_path)


@dataclasses.dataclass(frozen=True)
class KeeperSpec:
    """All that a keeper needs; it reads it from its stdin, as it holds secrets."""

    state_root: str
    options: list[str]
    """bubblewrap's, without the descriptors that the keeper adds."""
    command: list[str]
    timeout_s: float
    network: bool
    """Whether it is to have outbound network."""
    no_network: str
    """Why it has none, if that is known already."""
    volumes: list[VolumeMount]
    commit_lag_s: float
    """How often volumes of version 1 are committed, in seconds."""
    memory_bytes: int = 0
    """What all its processes may use together; 0 where no limit was asked for."""

    def to_json(self) -> dict[str, Any]:
        """The spec as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> KeeperSpec:
        """The spec that :meth:`to_json` made."""
        return cls(**{**row, "volumes": [VolumeMount(**volume) for volume in row["volumes"]]})


@dataclasses.dataclass(frozen=True)
class Folder:
    """The files of one sandbox."""

    path: Path

    @property
    def meta(self) -> Path:
        """The server's record."""
        return self.path / "meta.json"

    @property
    def env(self) -> Path:
        """The environment of every process, secrets included; removed at the end."""
        return self.path / "env.json"

    @property
    def pids(self) -> Path:
        """The processes that somebody must end if the keeper dies."""
        return self.path / "pids.json"

    @property
    def exit(self) -> Path:
        """How the sandbox ended; not there while it lives."""
        return self.path / "exit.json"

    @property
    def socket(self) -> Path:
        """Where the keeper listens."""
        return self.path / "keeper.sock"

    @property
    def keeper_log(self) -> Path:
        """What the keeper and its helpers print."""
        return self.path / "keeper.log"

    @property
    def stdin(self) -> Path:
        """Named pipe to the main process's stdin."""
        return self.path / "stdin"

    @property
    def rootfs(self) -> Path:
        """The container's root; removed at the end."""
        return self.path / "rootfs"

    @property
    def control(self) -> Path:
        """Shown to the container at :data:`CONTROL_DIR`."""
        return self.path / "control"

    @property
    def volumes(self) -> Path:
        """The live copies of the volumes; removed at the end, unless the last commit failed."""
        return self.path / "volumes"

    def live(self, index: int) -> Path:
        """The live copy of a volume."""
        return self.volumes / str(index)

    def baseline(self, index: int) -> Path:
        """What that copy looked like when it last agreed with the committed tree."""
        return self.path / f"baseline-{index}.json"

    def log(self, stream: str) -> Path:
        """What the main process printed to ``stdout`` or ``stderr``."""
        return self.path / f"{stream}.log"

    @property
    def log_index(self) -> Path:
        """When which of it came, a line an entry: stream, byte offset, Unix time in seconds."""
        return self.path / "log-index"
