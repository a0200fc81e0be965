"""``core.ports.Volume`` of a folder on this machine: what is written there is committed at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from skyrl_magic.core.errors import NotFound, TooLarge
from skyrl_magic.core.ports import VolumeFile


class FolderVolume:
    """The volume in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reads = 0

    def list(self, folder: str) -> Sequence[VolumeFile]:
        found = self.folder / folder
        if not found.is_dir():
            raise NotFound(f"there is no {folder}")
        return [
            VolumeFile(str(path.relative_to(self.folder)), path.stat().st_size, path.stat().st_mtime, path.is_dir())
            for path in found.iterdir()
        ]

    def read(self, path: str, max_bytes: int) -> bytes:
        self.reads += 1
        try:
            with (self.folder / path).open("rb") as file:
                data = file.read(max_bytes + 1)
        except FileNotFoundError:
            raise NotFound(f"there is no {path}") from None
        if len(data) > max_bytes:
            raise TooLarge(f"{path} is too large")
        return data
