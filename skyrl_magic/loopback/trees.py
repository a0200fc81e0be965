"""The tree of a volume: its committed manifest, and what a live copy looked like when it agreed with it.

Pure data, standard library only. Paths are relative with ``/`` between names; bytes that are not UTF-8 are kept as
surrogates, as Python's file names do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

FILE = "f"
DIRECTORY = "d"
SYMLINK = "l"
#: Mode of directories that nobody made explicitly.
DEFAULT_DIRECTORY_MODE = 0o755


class TreeError(Exception):
    """The change does not fit the tree; ``str()`` says why."""


class PathMissingError(TreeError):
    """There is nothing at the path."""


class PathExistsError(TreeError):
    """There is something at the path already."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One committed file, directory or symlink."""

    kind: str
    mode: int
    mtime_ns: int
    size_bytes: int = 0
    blocks: tuple[str, ...] = ()
    """SHA-256 of each 8 MiB block of a file, taken without the block's trailing zero bytes."""
    target: str = ""
    """Where a symlink points."""

    @property
    def fingerprint(self) -> str:
        """Equal for equal entries. A directory's time is left out: it changes with every name in it."""
        values = [self.kind, self.mode, self.mtime_ns, self.size_bytes, self.blocks, self.target]
        if self.kind == DIRECTORY:
            values[2] = 0
        return hashlib.blake2b(json.dumps(values).encode(), digest_size=8).hexdigest()

    def to_json(self) -> list[Any]:
        """The entry as JSON values."""
        return [self.kind, self.mode, self.mtime_ns, self.size_bytes, list(self.blocks), self.target]

    @classmethod
    def from_json(cls, row: list[Any]) -> Entry:
        """The entry that :meth:`to_json` wrote."""
        kind, mode, mtime_ns, size_bytes, blocks, target = row
        return cls(kind, mode, mtime_ns, size_bytes, tuple(blocks), target)


def normalize(path: str) -> str:
    """The manifest's name for a path as users write it (``/a//b/./c/`` is ``a/b/c``; the root is empty).

    Raises:
        TreeError: The path leaves the volume.
    """
    names: list[str] = []
    for name in path.split("/"):
        if name == "..":
            if not names:
                raise TreeError(f"'{path}' leaves the volume")
            names.pop()
        elif name not in ("", "."):
            names.append(name)
    return "/".join(names)


def parents(path: str) -> Iterator[str]:
    """The directories above ``path``, outermost first, without the root."""
    names = path.split("/")[:-1]
    for count in range(1, len(names) + 1):
        yield "/".join(names[:count])


class Manifest:
    """The committed tree of a volume. Every ancestor of an entry is a directory entry."""

    def __init__(self, entries: dict[str, Entry] | None = None) -> None:
        self.entries = {} if entries is None else entries

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        return {"entries": {path: entry.to_json() for path, entry in self.entries.items()}}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Manifest:
        """The manifest that :meth:`to_json` wrote."""
        return cls({path: Entry.from_json(row) for path, row in document["entries"].items()})

    def copy(self) -> Manifest:
        """A manifest that can be changed without changing this one."""
        return Manifest(dict(self.entries))

    def below(self, path: str) -> list[str]:
        """The paths under the directory ``path`` (the root is empty), sorted."""
        prefix = f"{path}/" if path else ""
        return sorted(name for name in self.entries if name.startswith(prefix))

    def is_directory(self, path: str) -> bool:
        """Whether ``path`` is the root or a directory."""
        return not path or (path in self.entries and self.entries[path].kind == DIRECTORY)

    def put(self, path: str, entry: Entry) -> None:
        """Set ``path``. What stands in the way is replaced: the last writer wins."""
        for parent in parents(path):
            if not self.is_directory(parent):
                self.entries[parent] = Entry(DIRECTORY, DEFAULT_DIRECTORY_MODE, entry.mtime_ns)
        if entry.kind != DIRECTORY and self.is_directory(path):
            for name in self.below(path):
                del self.entries[name]
        self.entries[path] = entry

    def discard(self, paths: Iterable[str]) -> None:
        """Remove ``paths``, but no directory in which something is left."""
        dropped = {path: self.entries.pop(path) for path in paths if path in self.entries}
        needed = {parent for path in self.entries for parent in parents(path)}
        self.entries.update({path: entry for path, entry in dropped.items() if path in needed})

    def remove(self, path: str, *, recursive: bool) -> None:
        """Remove a file, or with ``recursive`` a directory and what is below it.

        Raises:
            PathMissingError: There is nothing at ``path``.
            TreeError: ``path`` is a directory that is not empty, and ``recursive`` is not set.
        """
        if path and path not in self.entries:
            raise PathMissingError(f"no such file or directory: '{path}'")
        below = self.below(path) if self.is_directory(path) else []
        if (below or not path) and not recursive:
            raise TreeError(f"'/{path}' is a directory; removing it needs recursive")
        for name in [*below, path]:
            self.entries.pop(name, None)

    def copy_path(self, source: str, destination: str, *, recursive: bool) -> None:
        """Copy as ``cp`` does: into ``destination`` where that is a directory, else to that name.

        Raises:
            PathMissingError: ``source`` does not exist.
            TreeError: ``source`` is a directory and ``recursive`` is not set, or the copy would replace a directory.
        """
        if source not in self.entries:
            raise PathMissingError(f"no such file or directory: '{source}'")
        if self.is_directory(destination):
            destination = f"{destination}/{source.rpartition('/')[2]}".lstrip("/")
        if not self.is_directory(source):
            if self.is_directory(destination):
                raise TreeError(f"'{destination}' is a directory")
            self.put(destination, self.entries[source])
            return
        if not recursive:
            raise TreeError(f"'{source}' is a directory; copying it needs recursive")
        if f"{destination}/".startswith(f"{source}/"):
            raise TreeError(f"'{source}' cannot be copied into itself")
        copies = {destination + name[len(source) :]: self.entries[name] for name in [source, *self.below(source)]}
        for name, entry in copies.items():
            self.put(name, entry)

    def resolve(self, path: str) -> str:
        """``path`` with symlinks inside the volume followed.

        Raises:
            PathMissingError: There is nothing, or a link leads out of the volume or in a circle.
        """
        current = path
        for _ in range(40):
            link = next((p for p in [*parents(current), current] if self._is_link(p)), None)
            if link is None:
                if current and current not in self.entries:
                    raise PathMissingError(f"no such file or directory: '{path}'")
                return current
            target = self.entries[link].target
            if target.startswith("/"):
                break
            try:
                current = normalize(f"{link.rpartition('/')[0]}/{target}{current[len(link) :]}")
            except TreeError:
                break
        raise PathMissingError(f"'{path}' is a symlink that leads to nothing in the volume")

    def _is_link(self, path: str) -> bool:
        return path in self.entries and self.entries[path].kind == SYMLINK


class Stamp(NamedTuple):
    """What ``lstat`` said of a live path when it agreed with its committed entry."""

    kind: str
    mode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    """-1: the file changed so shortly before that a later change could look the same; it is read again."""


@dataclasses.dataclass(frozen=True)
class Base:
    """The agreement on one path: the live side and the committed side."""

    stamp: Stamp
    fingerprint: str


@dataclasses.dataclass
class Baseline:
    """When a live directory last agreed with the volume, path by path. Kept on disk with the sandbox's mount."""

    bases: dict[str, Base] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The baseline as JSON values."""
        return {path: [*base.stamp, base.fingerprint] for path, base in self.bases.items()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Baseline:
        """The baseline that :meth:`to_json` wrote."""
        return cls({path: Base(Stamp(*row[:-1]), row[-1]) for path, row in document.items()})

    def is_unchanged(self, path: str, stamp: Stamp) -> bool:
        """Whether the live path still looks as it did."""
        base = self.bases.get(path)
        return base is not None and base.stamp == stamp
