"""The store of mounts: one document for each, named by its content, so that equal mounts are one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from skyrl_magic.loopback.documents import id_from_digest, read_json, write_json
from skyrl_magic.loopback.objects import Mount, MountFile

#: A mount that nobody used for so long is forgotten, in seconds.
EXPIRY_S = 7 * 24 * 3600.0


class MountStore:
    """The mounts of one state directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._names_file = folder / "names.json"

    def create(self, files: Sequence[MountFile]) -> Mount:
        """The mount of these files, new or known."""
        files = sorted(files, key=lambda file: file.path)
        rows = [[file.path, file.sha256, file.mode] for file in files]
        digest = hashlib.sha256(json.dumps(rows).encode()).digest()
        mount = Mount(id_from_digest("mo", digest), tuple(files))
        write_json(self._path(mount.object_id), rows)
        return mount

    def get(self, mount_id: str) -> Mount:
        """The mount with this id; it counts as used.

        Raises:
            KeyError: There is no such mount.
        """
        path = self._path(mount_id)
        rows = read_json(path)
        if rows is None:
            raise KeyError(mount_id)
        os.utime(path)
        return Mount(mount_id, tuple(MountFile(*row) for row in rows))

    def bind_name(self, environment: str, name: str, mount_id: str) -> None:
        """Let ``name`` stand for this mount."""
        names = self._names()
        names[f"{environment}/{name}"] = mount_id
        write_json(self._names_file, names)

    def find(self, environment: str, name: str) -> str | None:
        """The id that ``name`` stands for, or None."""
        return self._names().get(f"{environment}/{name}")

    def referenced(self) -> Iterator[str]:
        """The SHA-256 of every file of every mount; mounts without a name that expired are forgotten first."""
        named = set(self._names().values())
        deadline = time.time() - EXPIRY_S
        for path in self._folder.glob("mo-*.json"):
            with contextlib.suppress(FileNotFoundError):
                if path.stem not in named and path.stat().st_mtime < deadline:
                    path.unlink()
                    continue
                for row in read_json(path) or []:
                    yield row[1]

    def _path(self, mount_id: str) -> Path:
        if not mount_id.startswith("mo-") or not mount_id[3:].isalnum():
            raise KeyError(mount_id)
        return self._folder / f"{mount_id}.json"

    def _names(self) -> dict[str, str]:
        return read_json(self._names_file) or {}
