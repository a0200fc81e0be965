"""Volumes read from outside, through modal's client: no container is started. ``core.ports.Volume``."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Sequence

import modal

from skyrl_magic.cloud.errors import mapped
from skyrl_magic.core.errors import NotFound, TooLarge
from skyrl_magic.core.ports import MountedVolume, VolumeFile

#: The version of the volumes that are made here: ``sync`` commits them.
NEW_VERSION = 2
#: How alike two names are at least to be taken for one another, for ``difflib``.
_NEAR = 0.75


def mounted_volume(name: str, client: modal.Client) -> tuple[modal.Volume, MountedVolume]:
    """The volume of this name, for a container; it is made where there is none.

    A version is named only where the volume is made: Modal refuses the one of another version, and the volumes that
    Modal made without being told one are of version 1.

    Raises:
        BackendError: it cannot be had.
    """
    with mapped(f"volume {name}"):
        volume = modal.Volume.from_name(name, client=client)
        is_new, near = False, ""
        try:
            volume.hydrate()
        except modal.exception.NotFoundError:
            near = _nearest(name, client)
            with contextlib.suppress(modal.exception.AlreadyExistsError):  # somebody else was faster, with any version
                modal.Volume.objects.create(name, version=NEW_VERSION, client=client)
                is_new = True
            volume = modal.Volume.from_name(name, client=client).hydrate()
        return volume, MountedVolume(1 if volume._is_v1 else 2, is_new, near if is_new else "")  # noqa: SLF001 no public way


def _nearest(name: str, client: modal.Client) -> str:
    """The volume whose name is nearly this one; empty for none, or where the account does not list them."""
    with contextlib.suppress(modal.exception.Error):
        names = [str(volume.name) for volume in modal.Volume.objects.list(client=client)]
        return next(iter(difflib.get_close_matches(name, names, 1, _NEAR)), "")
    return ""


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

    def read(self, path: str, max_bytes: int) -> bytes:
        """A whole file (see ``core.ports.Volume.read``)."""
        data = bytearray()
        with mapped(f"{path} on volume {self._name}"):
            try:
                for part in self._opened().read_file(path):
                    data += part
                    if len(data) > max_bytes:
                        raise TooLarge(f"{path} on volume {self._name} has more than {max_bytes:,} bytes")
                return bytes(data)
            except FileNotFoundError as error:
                raise NotFound(f"there is no {path} on volume {self._name}") from error

    def _opened(self) -> modal.Volume:
        self._ensure()
        if self._volume is None:
            volume = modal.Volume.from_name(self._name, client=self._client)
            volume.hydrate()
            self._volume = volume
        return self._volume
