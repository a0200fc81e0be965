"""The objects of the control API, as they are kept on disk (volumes have a module of their own)."""

from __future__ import annotations

import dataclasses
from typing import Any

from skyrl_magic.loopback.documents import now

#: The environment that an empty name stands for, as in a new Modal workspace.
DEFAULT_ENVIRONMENT = "main"


@dataclasses.dataclass
class Environment:
    """A namespace of names."""

    object_id: str
    name: str
    created_at: float = dataclasses.field(default_factory=now)

    def to_json(self) -> dict[str, Any]:
        """The environment as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Environment:
        """The environment that :meth:`to_json` wrote."""
        return cls(**row)


@dataclasses.dataclass
class App:
    """An app. Named ones (``AppGetOrCreate``) are deployed; others live as long as their client."""

    object_id: str
    environment: str
    state: int
    """A value of ``api_pb2.AppState``."""
    name: str = ""
    description: str = ""
    created_at: float = dataclasses.field(default_factory=now)
    stopped_at: float = 0.0
    tags: dict[str, str] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The app as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> App:
        """The app that :meth:`to_json` wrote."""
        return cls(**row)


@dataclasses.dataclass
class Image:
    """What of an image matters here: nothing is pulled or built, the container shows this machine's files."""

    object_id: str
    tag: str = ""
    """The registry reference of the first ``FROM``."""
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    workdir: str = ""
    entrypoint: list[str] = dataclasses.field(default_factory=list)
    command: list[str] = dataclasses.field(default_factory=list)
    """``CMD``."""
    error: str = ""
    """One line that says why the image cannot be had here; empty if it can."""
    created_at: float = dataclasses.field(default_factory=now)

    def to_json(self) -> dict[str, Any]:
        """The image as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Image:
        """The image that :meth:`to_json` wrote."""
        return cls(**row)


@dataclasses.dataclass(frozen=True)
class MountFile:
    """One file of a mount."""

    path: str
    """Absolute path in the container."""
    sha256: str
    mode: int


@dataclasses.dataclass(frozen=True)
class Mount:
    """Local files that a container sees, by content."""

    object_id: str
    files: tuple[MountFile, ...]


@dataclasses.dataclass
class Secret:
    """Environment variables that a container gets."""

    object_id: str
    environment: str
    values: dict[str, str]
    name: str = ""
    """Empty for secrets made from a dict, which nobody lists."""
    created_at: float = dataclasses.field(default_factory=now)
    last_used_at: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The secret as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Secret:
        """The secret that :meth:`to_json` wrote."""
        return cls(**row)
