"""Volumes read from outside, through modal's client: no container is started. ``core.ports.Volume``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import modal

from skyrl_magic.cloud.errors import mapped
from skyrl_magic.core.errors import NotFound
from skyrl_magic.core.ports import VolumeFile


class ModalVolume:
    """What was last committed of a volume. Its methods may be called from several threads.

    Args:
        name: the volume.
        client: a client of the account or of the local server.
        ensure: called before the server is asked for something; starts it where it is ours and has gone.
    """

    def __init__(self, name: str, client: modal.Client, ensure: Callable[[], object] = lambda: None) -> None:
        self._name = name
        self._client = client
        self._ensure = ensure
        self._volume: modal.Volume | None = None

    def list(self, folder: str) -> Sequence[VolumeFile]:
        """What lies in a folder (see ``core.ports.Volume.list``)."""
        with mapped(f"volume {self._name}"):
            return [
                VolumeFile(entry.path, entry.size, float(entry.mtime), is_folder=entry.type.name == "DIRECTORY")
                for entry in self._opened().listdir(folder)
            ]

    def read(self, path: str) -> bytes:
        """A whole file (see ``core.ports.Volume.read``)."""
        with mapped(f"{path} on volume {self._name}"):
            try:
                return b"".join(self._opened().read_file(path))
            except FileNotFoundError as error:
                raise NotFound(f"there is no {path} on volume {self._name}") from error

    def _opened(self) -> modal.Volume:
        self._ensure()
        if self._volume is None:
            volume = modal.Volume.from_name(self._name, client=self._client)
            volume.hydrate()
            self._volume = volume
        return self._volume
