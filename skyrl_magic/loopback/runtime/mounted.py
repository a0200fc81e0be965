"""The volumes of one sandbox: live copies that are committed on request. Standard library only."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from skyrl_magic.loopback.documents import read_json, write_json
from skyrl_magic.loopback.runtime import processes
from skyrl_magic.loopback.runtime.spec import Folder, VolumeMount
from skyrl_magic.loopback.trees import Baseline
from skyrl_magic.loopback.volumes import VolumeStore


class OpenFilesError(Exception):
    """A volume cannot be reloaded while its files are in use; ``str()`` names one."""


class MountedVolumes:
    """Live copies and their baselines. The methods block; one thread at a time calls them, and nobody else commits."""

    def __init__(self, folder: Folder, state_root: Path, mounts: Sequence[VolumeMount]) -> None:
        self._folder = folder
        self._mounts = list(enumerate(mounts))
        self._store = VolumeStore(state_root)
        self._baselines: dict[int, Baseline] = {}

    def prepare(self) -> None:
        """Fill the live copies with what was committed.

        Raises:
            OSError: The disk is full.
            VolumeMissingError: A volume does not exist.
        """
        for index, mount in self._mounts:
            live = self._folder.live(index)
            baseline = self._store.get(mount.volume_id).materialize(live)
            (live / mount.sub_path.strip("/")).mkdir(parents=True, exist_ok=True)
            self._set_baseline(index, baseline)

    def commit(self, paths: Sequence[str] | None = None) -> None:
        """Commit the volumes of version 2 on which ``paths`` lie; all volumes if None.

        Raises:
            OSError: The disk is full, or a file cannot be read; that volume was not committed.
            VolumeMissingError: A volume was deleted.
        """
        for index, mount in self._mounts:
            if paths is None or (not mount.is_v1 and any(_is_below(path, mount) for path in paths)):
                self._commit(index, mount)

    def commit_v1(self) -> None:
        """Commit the volumes of version 1, as happens in the background.

        Raises:
            OSError: The disk is full, or a file cannot be read; that volume was not committed.
            VolumeMissingError: A volume was deleted.
        """
        for index, mount in self._mounts:
            if mount.is_v1:
                self._commit(index, mount)

    def _commit(self, index: int, mount: VolumeMount) -> None:
        if not mount.read_only:
            before = self._baseline(index)
            after = self._store.get(mount.volume_id).commit(self._folder.live(index), before)
            if after != before:
                self._set_baseline(index, after)

    def reload(self, child_pid: int) -> None:
        """Bring what others committed into the live copies.

        Raises:
            OpenFilesError: A process of the sandbox uses a file on a volume; nothing was done.
            OSError: The disk is full.
            VolumeMissingError: A volume was deleted.
        """
        for path in processes.paths_in_use(child_pid):
            if any(_is_below(path, mount) for _, mount in self._mounts):
                raise OpenFilesError(f"there are open files preventing the operation: path {path} is open")
        for index, mount in self._mounts:
            after = self._store.get(mount.volume_id).reload(self._folder.live(index), self._baseline(index))
            self._set_baseline(index, after)

    def _baseline(self, index: int) -> Baseline:
        if index not in self._baselines:
            self._baselines[index] = Baseline.from_json(read_json(self._folder.baseline(index)) or {})
        return self._baselines[index]

    def _set_baseline(self, index: int, baseline: Baseline) -> None:
        write_json(self._folder.baseline(index), baseline.to_json())
        self._baselines[index] = baseline


def _is_below(path: str, mount: VolumeMount) -> bool:
    return PurePosixPath(path).is_relative_to(mount.mount_path)


def leave_end(folder: Folder, end: dict[str, Any], commit: Callable[[], str]) -> None:
    """Write down how a sandbox ended; then remove what only a living one needs.

    Where that fails, or its last commit did, the disk may be full of what the sandbox itself has written: its root is
    removed first and both are tried again. On a disk that others have filled there will be no record, and the next
    server writes it.

    Args:
        folder: the sandbox's.
        end: the record; the key ``commit_error`` is set anew where the commit is repeated.
        commit: commits all volumes, and returns why that failed, or an empty string.
    """
    try:
        if end["commit_error"]:
            remove_tree(folder.rootfs)
            end["commit_error"] = commit()
        write_json(folder.exit, end)
    except OSError:
        remove_tree(folder.rootfs)
        with contextlib.suppress(OSError):
            write_json(folder.exit, end)


def remove_living(folder: Folder, *, keep_volumes: bool = False) -> None:
    """Remove what only a living sandbox needs; its record and its output stay.

    Volumes whose last commit failed are kept, where a person can find them.
    """
    for tree in (folder.rootfs, folder.control, *(() if keep_volumes else (folder.volumes,))):
        remove_tree(tree)
    for path in (folder.env, folder.pids, folder.stdin, *folder.path.glob("baseline-*.json")):
        path.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Delete a folder and everything in it, also what is write-protected. What is not there is no error."""
    for folder, names, _ in os.walk(path):
        for name in names:
            below = Path(folder, name)
            if not below.is_symlink() and not os.access(below, os.R_OK | os.W_OK | os.X_OK):
                with contextlib.suppress(OSError):
                    below.chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)
