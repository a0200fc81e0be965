"""The store of volumes. What was committed is what is read from outside; sandboxes work on live copies.

Standard library only, and everything on disk is safe to use from several processes: a sandbox's keeper commits
even when the server is dead. A volume is a folder with ``meta.json``, ``manifest.json`` (replaced atomically; it is
the truth) and ``lock`` (flock, held while the manifest is changed); contents lie in the blob store.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from skyrl_magic.loopback import livetree
from skyrl_magic.loopback.blobs import BlobStore
from skyrl_magic.loopback.commit_limits import UNLIMITED, CommitLimits, TooLateError
from skyrl_magic.loopback.documents import new_id, now, read_json, write_json
from skyrl_magic.loopback.layout import Layout
from skyrl_magic.loopback.trees import DIRECTORY, Base, Baseline, Entry, Manifest, Stamp

T = TypeVar("T")


class VolumeMissingError(KeyError):
    """There is no such volume (any more)."""

    def __str__(self) -> str:
        """``volume vo-… does not exist``."""
        return f"volume {self.args[0]} does not exist"


@dataclasses.dataclass(frozen=True)
class VolumeMeta:
    """What is known of a volume beside its files."""

    environment: str
    name: str
    """Empty for ephemeral volumes."""
    version: int
    """1 or 2, Modal's version of the file system: it decides which calls the client makes."""
    created_at: float


@dataclasses.dataclass(frozen=True)
class _LocalChanges:
    """What happened to a live copy since its baseline."""

    changed: dict[str, tuple[Entry, Stamp]]
    deleted: set[str]
    bases: dict[str, Base]
    """The baseline, where it was only out of date."""

    def __contains__(self, path: str) -> bool:
        return path in self.changed or path in self.deleted

    @property
    def is_clean(self) -> bool:
        return not self.changed and not self.deleted


class Volume:
    """One volume. The methods block; call them from a thread."""

    def __init__(self, volume_id: str, folder: Path, blobs: BlobStore) -> None:
        self.object_id = volume_id
        self._folder = folder
        self._blobs = blobs
        self._cache: tuple[tuple[int, int, int], Manifest] | None = None

    @property
    def meta(self) -> VolumeMeta:
        """Name and version.

        Raises:
            VolumeMissingError: The volume was deleted.
        """
        return VolumeMeta(**self._read("meta.json"))

    def rename(self, name: str, environment: str | None = None) -> None:
        """Give the volume another name, and where one is given another environment."""
        with self._locked():
            old = self.meta
            meta = dataclasses.replace(old, name=name, environment=environment or old.environment)
            write_json(self._folder / "meta.json", dataclasses.asdict(meta))

    def manifest(self) -> Manifest:
        """The committed tree. Not to be changed: see :meth:`change`.

        Raises:
            VolumeMissingError: The volume was deleted.
        """
        try:
            status = (self._folder / "manifest.json").stat()
        except FileNotFoundError:
            raise VolumeMissingError(self.object_id) from None
        key = (status.st_mtime_ns, status.st_size, status.st_ino)
        cache = self._cache
        if cache is None or cache[0] != key:
            cache = (key, Manifest.from_json(self._read("manifest.json")))
            self._cache = cache
        return cache[1]

    def change(self, change: Callable[[Manifest], T]) -> T:
        """Apply ``change`` to the tree and commit it at once; nothing is committed if it raises."""
        with self._locked():
            before = self.manifest()
            manifest = before.copy()
            result = change(manifest)
            if manifest.entries != before.entries:
                write_json(self._folder / "manifest.json", manifest.to_json())
            return result

    def materialize(self, dest: Path) -> Baseline:
        """Fill the empty or missing directory ``dest`` from the committed tree.

        Raises:
            OSError: The files cannot be written, for example on a full disk.
            VolumeMissingError: The volume was deleted.
        """
        dest.mkdir(parents=True, exist_ok=True)
        entries = self.manifest().entries
        bases: dict[str, Base] = {}
        for path in sorted(entries):
            self._write(dest, path, entries[path], bases)
        self._set_directory_modes(dest, entries, bases)
        return Baseline(bases)

    def commit(self, live: Path, baseline: Baseline, limits: CommitLimits = UNLIMITED) -> Baseline:
        """Store what changed in ``live`` since ``baseline``, and return the new baseline.

        The last writer of a path wins; paths that only others changed stay as they committed them, and so do those that
        the limits leave out. Without a change this costs one walk over ``live``.

        Raises:
            CommitStoppedError: It was stopped, or its time was over before it was known what has changed.
            OSError: ``live`` is missing or unreadable, or the disk is full; nothing was committed.
            VolumeMissingError: The volume was deleted.
        """
        local = self._examine(live, baseline, limits)
        if local.is_clean:
            return baseline if local.bases == baseline.bases else Baseline(local.bases)

        def apply(manifest: Manifest) -> None:
            manifest.discard(local.deleted)
            for path in sorted(local.changed):
                manifest.put(path, local.changed[path][0])

        self.change(apply)
        bases = {path: base for path, base in local.bases.items() if path not in local.deleted}
        bases |= {path: Base(stamp, entry.fingerprint) for path, (entry, stamp) in local.changed.items()}
        return Baseline(bases)

    def reload(self, live: Path, baseline: Baseline, limits: CommitLimits = UNLIMITED) -> Baseline:
        """Bring what others committed into ``live``; local changes that are not committed yet stay.

        Raises:
            CommitStoppedError: It was stopped; nothing was done.
            OSError: ``live`` is missing or cannot be written.
            VolumeMissingError: The volume was deleted.
        """
        local = self._examine(live, baseline, limits)
        entries = self.manifest().entries
        bases = dict(local.bases)
        for path in sorted(set(bases) - set(entries), reverse=True):
            del bases[path]
            if path not in local:
                livetree.remove(live / path)
        fresh: dict[str, Entry] = {}
        for path in sorted(entries):
            entry = entries[path]
            known = baseline.bases.get(path)
            if path in local or (known is not None and known.fingerprint == entry.fingerprint):
                continue
            if self._replace(live, path, entry, bases):
                fresh[path] = entry
        self._set_directory_modes(live, fresh, bases)
        return Baseline(bases)

    def _examine(self, live: Path, baseline: Baseline, limits: CommitLimits) -> _LocalChanges:
        """What changed in ``live`` since ``baseline``; the contents of what may have changed are stored on the way."""
        stamps = livetree.scan(live, limits)
        deleted = {path for path in baseline.bases if path not in stamps}
        changed: dict[str, tuple[Entry, Stamp]] = {}
        bases = dict(baseline.bases)
        for path, stamp in stamps.items():
            if baseline.is_unchanged(path, stamp):
                continue
            if not limits.takes(path, stamp.size_bytes):
                continue
            try:
                pair = livetree.store(live / path, self._blobs, limits)
            except TooLateError:
                limits.leave_out(path)
                continue
            known = bases.get(path)
            if pair is None:
                deleted |= {path} if known is not None else set()
            elif known is not None and known.fingerprint == pair[0].fingerprint:
                # It only looked changed: it had been read too soon after its last write to be sure.
                bases[path] = Base(pair[1], known.fingerprint)
            else:
                changed[path] = pair
        return _LocalChanges(changed, deleted, bases)

    def _replace(self, live: Path, path: str, entry: Entry, bases: dict[str, Base]) -> bool:
        target = live / path
        if not target.parent.is_dir() or target.parent.is_symlink():
            return False  # the local side made something else of the directory above
        if entry.kind != DIRECTORY or target.is_symlink() or not target.is_dir():
            livetree.remove(target)
            if os.path.lexists(target):
                return False  # a directory in which there are local files
        self._write(live, path, entry, bases)
        return True

    def _write(self, root: Path, path: str, entry: Entry, bases: dict[str, Base]) -> None:
        # A directory gets its real mode last: into a read-only one nothing could be written.
        first = dataclasses.replace(entry, mode=entry.mode | 0o700) if entry.kind == DIRECTORY else entry
        bases[path] = Base(livetree.write(root / path, first, self._blobs), entry.fingerprint)

    def _set_directory_modes(self, root: Path, entries: dict[str, Entry], bases: dict[str, Base]) -> None:
        for path in sorted(entries, reverse=True):
            if entries[path].kind == DIRECTORY:
                bases[path] = Base(livetree.write(root / path, entries[path], self._blobs), entries[path].fingerprint)

    def _read(self, name: str) -> Any:
        document = read_json(self._folder / name)
        if document is None:
            raise VolumeMissingError(self.object_id)
        return document

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise VolumeMissingError(self.object_id) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class VolumeStore:
    """The volumes of one state directory."""

    def __init__(self, root: Path) -> None:
        layout = Layout(root)
        self._folder = layout.volumes
        self.blobs = BlobStore(layout.blobs)
        self._volumes: dict[str, Volume] = {}

    def get(self, volume_id: str) -> Volume:
        """The volume with this id.

        Raises:
            VolumeMissingError: There is none.
        """
        folder = self._folder / volume_id
        if not volume_id.startswith("vo-") or "/" in volume_id or not (folder / "meta.json").is_file():
            self._volumes.pop(volume_id, None)
            raise VolumeMissingError(volume_id)
        return self._volumes.setdefault(volume_id, Volume(volume_id, folder, self.blobs))

    def __iter__(self) -> Iterator[Volume]:
        for folder in sorted(self._folder.glob("vo-*")):
            with contextlib.suppress(VolumeMissingError):
                yield self.get(folder.name)

    def find(self, environment: str, name: str) -> Volume | None:
        """The volume with this name, or None."""
        for volume in self:
            with contextlib.suppress(VolumeMissingError):
                meta = volume.meta
                if meta.name == name and meta.environment == environment:
                    return volume
        return None

    def create(self, environment: str, name: str, version: int) -> Volume:
        """A new, empty volume; the caller has made sure that the name is free."""
        volume_id = new_id("vo")
        folder = self._folder / volume_id
        folder.mkdir(mode=0o700)
        write_json(folder / "manifest.json", Manifest().to_json())
        write_json(folder / "meta.json", dataclasses.asdict(VolumeMeta(environment, name, version, now())))
        return self.get(volume_id)

    def delete(self, volume_id: str) -> None:
        """Delete a volume; sandboxes that have it mounted cannot commit any more.

        Raises:
            VolumeMissingError: There is none.
        """
        volume = self.get(volume_id)
        del self._volumes[volume_id]
        shutil.rmtree(self._folder / volume.object_id)

    def referenced(self) -> Iterator[str]:
        """The SHA-256 of every block of every volume."""
        for volume in self:
            for entry in volume.manifest().entries.values():
                yield from entry.blocks
