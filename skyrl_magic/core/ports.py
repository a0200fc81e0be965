"""What the services need from a backend. ``cloud`` implements these; nothing here does I/O."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from skyrl_magic.core.cancel import Cancel
from skyrl_magic.core.ends import End
from skyrl_magic.core.spec import SessionSpec


@dataclass(frozen=True)
class Upload:
    """The checkout's files that are mounted into a new container."""

    root: Path
    paths: Collection[str]
    """Relative paths, with ``/``; regular files only."""
    manifest: bytes
    """JSON ``{path: entry}`` of everything in the checkout (entries as in ``core.protocol.CheckoutState``)."""


@dataclass(frozen=True)
class MountedVolume:
    """What is known of a volume when a container gets it."""

    version: int
    """Modal's version of its file system: one of version 1 has no commit on demand (``sync`` commits nothing)."""
    is_new: bool = False
    """It was made for this container."""
    near: str = ""
    """Of a new one: a volume that was there, and whose name is nearly the same."""


@dataclass(frozen=True)
class SandboxRequest:
    """A container to create."""

    name: str
    spec: SessionSpec
    timeout_s: int
    """The backend ends it so long after its start."""
    tags: Mapping[str, str]
    command: Callable[[MountedVolume], Sequence[str]]
    """What it runs, from what its volume is; called once, when that is known."""
    agent: Path
    """The agent's zipapp on this machine."""
    upload: Upload | None = None


class ByteStream(Protocol):
    """The stdin and stdout of an exec in a container."""

    def write(self, data: bytes) -> None:
        """Send ``data``. Raises BackendError."""
        ...

    def read(self) -> bytes:
        """Block for the next bytes; ``b""`` at the end. Raises BackendError when the connection breaks."""
        ...

    def close(self) -> None:
        """Give the stream up from any thread: a blocked ``read`` ends, and the process sees end of file."""
        ...


class Sandbox(Protocol):
    """A running container."""

    @property
    def id(self) -> str:
        """The backend's id."""
        ...

    @property
    def app(self) -> str:
        """The app that it is in."""
        ...

    def exec(self, args: Sequence[str]) -> ByteStream:
        """Start a process in the container. Raises SessionLost when the container has ended."""
        ...

    def revive(self) -> bool:
        """Whether the server that execs go over has gone since the last one, and is back. Raises BackendError."""
        ...

    def is_queued(self) -> bool:
        """Whether it still waits for its machine: an exec would wait with it. Raises BackendError, SessionLost."""
        ...

    def poll(self) -> int | None:
        """The exit code of the container, or None while it runs."""
        ...

    def end(self) -> End | None:
        """How the container ended, or None while it runs."""
        ...

    def tags(self) -> Mapping[str, str]:
        """The tags it was created with."""
        ...

    def last_output(self) -> str:
        """The end of what the main process printed, for an error message. May be empty."""
        ...

    def terminate(self) -> None:
        """End the container and wait for it; no error when it has ended."""
        ...


@dataclass(frozen=True)
class VolumeFile:
    """A file or a folder on a volume."""

    path: str
    """From the volume's root, with ``/``."""
    size_bytes: int
    modified_at: float
    """Unix time in seconds."""
    is_folder: bool

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]


class Volume(Protocol):
    """A volume read from outside, as it was last committed; from any thread."""

    def list(self, folder: str) -> Sequence[VolumeFile]:
        """What lies in a folder, not below. Raises NotFound, BackendError."""
        ...

    def read(self, path: str, max_bytes: int) -> bytes:
        """A whole file. Raises NotFound, TooLarge where it has more than ``max_bytes``, BackendError."""
        ...


class Backend(Protocol):
    """Where sandboxes come from."""

    @property
    def name(self) -> str:
        """``modal`` or ``local``."""
        ...

    @property
    def account(self) -> str:
        """Stands for the account that is used, in a few hex digits; empty where nothing lasting does."""
        ...

    def owner(self) -> str | None:
        """Whom the account says that asks, as ``NAME (ID)``; None where it does not say it. Raises BackendError."""
        ...

    def create(self, request: SandboxRequest, on_phase: Callable[[str], None], cancel: Cancel) -> Sandbox:
        """Create a container, and wait for its machine where that is not free yet.

        Args:
            request: what is created.
            on_phase: hears ``image``, ``checkout``, ``container`` as each begins.
            cancel: gives it up, from another thread.

        Raises:
            Cancelled: it was given up; nothing of it is left, or comes later.
            NoCapacity: there is no machine for it.
            AlreadyExists: a running sandbox of the app has this name.
            NotFound: an image or a secret that is not there.
            AuthError, BackendUnavailable, BackendError: see ``core.errors``.
        """
        ...

    def find(self, app: str, name: str) -> Sandbox | None:
        """The running sandbox of this name, or None."""
        ...

    def list(self, tags: Mapping[str, str]) -> Sequence[Sandbox]:
        """The running sandboxes, of whichever app, that have all of these tags."""
        ...

    def volume(self, name: str) -> Volume:
        """The volume of this name, which need not exist; nobody is asked yet."""
        ...
