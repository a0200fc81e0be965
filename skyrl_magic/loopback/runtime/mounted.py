"""The volumes of one sandbox: live copies that are committed on request. Standard library only."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from skyrl_magic.loopback.commit_limits import UNLIMITED, CommitLimits
from skyrl_magic.loopback.documents import read_json, write_json
from skyrl_magic.loopback.runtime import processes
from skyrl_magic.loopback.runtime.spec import Folder, VolumeMount, is_below
from skyrl_magic.loopback.trees import Baseline
from skyrl_magic.loopback.volumes import VolumeStore

#: What the commit at a sandbox's end may take, in seconds, and store, in bytes. Whose files these
#: are is not asked: a sparse file of 1 TiB costs nothing to make.
LAST_COMMIT_S = 300.0
LAST_COMMIT_BYTES = 256 * 1024**3


class LastCommit(NamedTuple):
    """What became of the commit at a sandbox's end."""

    error: str
    """Why a volume was not committed; empty where all were."""
    left_out: str
    """The files that were not, as the bounds were reached; empty where all were."""


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

    def commit(self, index: int, limits: CommitLimits = UNLIMITED) -> None:
        """Commit one volume.

        Raises:
            CommitStoppedError: The limits say so.
            OSError: The disk is full, or a file cannot be read; that volume was not committed.
            VolumeMissingError: A volume was deleted.
        """
        self._commit(index, self._mounts[index][1], limits)

    def commit_last(self) -> LastCommit:
        """Commit all volumes, as far as that can be done in a bounded time; raises nothing."""
        limits = CommitLimits(LAST_COMMIT_S, LAST_COMMIT_BYTES)
        errors = []
        for index, mount in self._mounts:
            try:
                self._commit(index, mount, limits)
            except Exception as failure:  # noqa: BLE001 - whatever it is, the others are committed and the end goes on
                errors.append(str(failure).replace("\n", " ") or type(failure).__name__)
        return LastCommit("; ".join(errors), limits.left_out)

    def commit_v1(self, limits: CommitLimits = UNLIMITED) -> None:
        """Commit the volumes of version 1, as happens in the background.

        Raises:
            CommitStoppedError: The limits say so.
            OSError: The disk is full, or a file cannot be read; that volume was not committed.
            VolumeMissingError: A volume was deleted.
        """
        for index, mount in self._mounts:
            if mount.is_v1:
                self._commit(index, mount, limits)

    def _commit(self, index: int, mount: VolumeMount, limits: CommitLimits) -> None:
        if not mount.read_only:
            before = self._baseline(index)
            after = self._store.get(mount.volume_id).commit(self._folder.live(index), before, limits)
            if after != before:
                self._set_baseline(index, after)

    def reload(self, child_pid: int, limits: CommitLimits = UNLIMITED) -> None:
        """Bring what others committed into the live copies.

        Raises:
            CommitStoppedError: The limits say so.
            OpenFilesError: A process of the sandbox uses a file on a volume; nothing was done.
            OSError: The disk is full.
            VolumeMissingError: A volume was deleted.
        """
        for path in processes.paths_in_use(child_pid):
            if any(is_below(path, mount) for _, mount in self._mounts):
                raise OpenFilesError(f"there are open files preventing the operation: path {path} is open")
        for index, mount in self._mounts:
            volume = self._store.get(mount.volume_id)
            after = volume.reload(self._folder.live(index), self._baseline(index), limits)
            self._set_baseline(index, after)

    def _baseline(self, index: int) -> Baseline:
        if index not in self._baselines:
            self._baselines[index] = Baseline.from_json(read_json(self._folder.baseline(index)) or {})
        return self._baselines[index]

    def _set_baseline(self, index: int, baseline: Baseline) -> None:
        write_json(self._folder.baseline(index), baseline.to_json())
        self._baselines[index] = baseline


def leave_end(folder: Folder, end: dict[str, Any], commit: Callable[[], LastCommit]) -> None:
    """Write down how a sandbox ended; then remove what only a living one needs.

    Where that fails, or its last commit did, the disk may be full of what the sandbox itself has written: its root is
    removed first and both are tried again. On a disk that others have filled there will be no record, and the next
    server writes it.

    Args:
        folder: the sandbox's.
        end: the record; the keys ``commit_error`` and ``left_out`` are set anew where the commit is repeated.
        commit: commits all volumes.
    """
    try:
        if end["commit_error"]:
            remove_tree(folder.rootfs)
            end["commit_error"], end["left_out"] = commit()
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
    if not os.path.lexists(path):
        return
    # By programs, as these go as deep as anybody could: Python's own functions end at 1,000 folders.
    commands = [["rm", "-rf"]] if os.geteuid() == 0 else [["chmod", "-R", "u+rwX"], ["rm", "-rf"]]
    for command in commands:
        subprocess.run([*command, "--", path], stderr=subprocess.DEVNULL, check=False)
