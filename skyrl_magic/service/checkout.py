"""The user's SkyRL checkout: find it, list what belongs to it, read its files consistently."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from skyrl_magic.core import contract
from skyrl_magic.core.errors import CheckoutError, reason_of
from skyrl_magic.core.protocol import CHUNK_BYTES
from skyrl_magic.service.changes import ChangeWatch
from skyrl_magic.service.ignore import MAX_BYTES, Ignore
from skyrl_magic.service.small_files import is_own, read_small
from skyrl_magic.service.tree_walk import GONE, TreeWalk, open_beneath

#: An entry of a manifest, as in ``core.protocol.CheckoutState``: a file, a symlink or an empty directory.
Entry = tuple[str, int, str, int] | tuple[str, str] | tuple[str, int]
Manifest = dict[str, Entry]
#: Above this a line names the largest folders (DESIGN §4). In bytes.
LARGE_BYTES = 200 * 1024 * 1024
#: And so many are slow to send, however small they are.
MANY_FILES = 20_000
#: A file changed so shortly before it was hashed may change again within the file system's time stamp, unseen.
_RACY_NS = 2_000_000_000
_READ_TRIES = 5

_Signature = tuple[int, int, int, int, int]
_Known = tuple[_Signature, str]


@dataclass(frozen=True)
class Checkout:
    """A SkyRL checkout on the user's machine. ``old_layout``: the project lies in ``skyrl-train/``."""

    root: Path
    old_layout: bool

    @property
    def project(self) -> str:
        """The folder of the project below the root; empty for the root itself."""
        return contract.TRAIN_SUBDIR if self.old_layout else ""

    @property
    def workdir(self) -> str:
        """The working directory in the container."""
        return f"{contract.CHECKOUT_DIR}/{self.project}".rstrip("/")


def _recognise(folder: Path) -> Checkout | None:
    """The rule of FACTS: ``skyrl-gym`` marks the root, ``skyrl-train/pyproject.toml`` the old layout."""
    if not (folder / "skyrl-gym").is_dir():
        return None
    return Checkout(folder, (folder / contract.TRAIN_SUBDIR / "pyproject.toml").is_file())


def find_checkout(folder: Path, notes: list[str] | None = None, *, also: int | None = None) -> Checkout | None:
    """The checkout that holds ``folder``, from there upwards, or None.

    ``skyrl-train/skyrl-gym`` is a symlink to the one beside it in the old layout, so a match there is its parent's.

    Args:
        folder: where the search begins.
        notes: gets a line for each folder that would be one and was passed over: another user's, the home folder, a
            folder that everybody can write to.
        also: the id of a user whose folders count as this user's do.
    """
    for parent in (folder, *folder.parents):
        found = _recognise(parent)
        if found is None:
            continue
        why = _why_none(found, also)
        if why:
            if notes is not None:
                notes.append(f"{parent} has a folder skyrl-gym and was passed over: {why}")
            continue
        above = _recognise(parent.parent) if parent.name == contract.TRAIN_SUBDIR else None
        return above if above is not None and not _why_none(above, also) else found
    return None


def _why_none(found: Checkout, also: int | None) -> str:
    """Why a folder with the mark of a checkout is none; empty where it is one."""
    root = found.root.resolve()
    with contextlib.suppress(RuntimeError, OSError):  # there is no home folder
        if root == Path.home().resolve():
            return "it is the home folder"
    if root == Path(root.anchor):
        return "it is the root of the file system"
    if not is_own(found.root, found.root / "skyrl-gym", also=also):
        return f"it is another user's (--repo {found.root} takes it all the same)"
    if found.root.stat().st_mode & (stat.S_ISVTX | stat.S_IWOTH) == stat.S_ISVTX | stat.S_IWOTH:
        return "everybody can write there"
    return ""


def open_checkout(path: Path) -> Checkout:
    """The checkout at ``path``, or above it where ``path`` is inside one; who owns ``path`` is trusted, as it is named.

    Raises:
        CheckoutError: there is no such folder, or no checkout.
    """
    if not path.is_dir():
        raise CheckoutError(f"--repo {path}: there is no such folder; --repo none runs without a checkout")
    notes: list[str] = []
    found = find_checkout(path, notes, also=path.stat().st_uid)
    if found is None:
        why = f"; {notes[0]}" if notes else " (with a folder skyrl-gym)"
        raise CheckoutError(f"--repo {path}: no SkyRL checkout{why}; --repo none runs without one")
    return found


@dataclass
class Scan:
    """One look at a checkout."""

    manifest: Manifest
    size_bytes: int = 0
    unreadable: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    """Sockets, pipes and devices, which do not travel."""


class CheckoutReader:
    """Lists and reads a checkout; keeps hashes of files that have not changed since."""

    def __init__(self, checkout: Checkout) -> None:
        self.checkout = checkout
        self._hashes: dict[str, _Known] = {}
        self._changes: ChangeWatch | None = None
        self._last: Scan | None = None

    def watch(self) -> None:
        """Let the kernel tell when nothing has changed, so that :meth:`scan` need not look; :meth:`close` ends it."""
        if self._changes is None:
            self._changes = ChangeWatch()

    def close(self) -> None:
        """Stop watching the checkout; it can still be read."""
        if self._changes is not None:
            self._changes.close()
            self._changes = None

    def scan(self) -> Scan:
        """What the checkout holds now: stat for all, hashes only for what changed.

        Where the kernel says that nothing has changed, the scan before is returned: the same object.

        Raises:
            CheckoutError: the folder is gone, a file keeps changing while it is read, ``.skyrlignore`` is wrong, or
                there is more than ``service.tree_walk`` takes.
        """
        if self._changes is not None:
            if self._last is not None and self._changes.quiet():
                return self._last
            self._changes.begin(self.checkout.root)
        result = Scan({})
        hashes: dict[str, _Known] = {}
        if not self.checkout.root.is_dir():
            raise CheckoutError(f"the checkout {self.checkout.root} is gone")
        walk = TreeWalk(self.checkout.root, self._ignore(), self._changes)
        for path, info, target in walk.entries():
            if target is not None:
                result.manifest[path] = ("l", target)
            elif stat.S_ISDIR(info.st_mode):
                result.manifest[path] = ("d", stat.S_IMODE(info.st_mode))
            else:
                self._file(path, info, hashes, result)
        result.unreadable += walk.unreadable
        result.special = walk.special
        self._hashes = hashes
        self._last = result
        return result

    def _file(self, path: str, info: os.stat_result, hashes: dict[str, _Known], result: Scan) -> None:
        signature = _signature(info)
        known = self._hashes.get(path)
        try:
            if known is None or known[0] != signature:
                known = self._hash(path)
        except GONE:
            return  # since it was listed: the next scan agrees
        except OSError:
            result.unreadable.append(path)
            return
        signature = known[0]
        # The change time too: a tool that sets an old modification time (tar, rsync) can do so twice within a tick.
        if time.time_ns() - max(signature[1], signature[4]) > _RACY_NS:
            hashes[path] = known
        result.manifest[path] = _entry(known)
        result.size_bytes += signature[0]

    def _hash(self, path: str) -> _Known:
        return next(part for part in self._parts(path) if isinstance(part, tuple))

    def read(self, path: str) -> Iterator[bytes | Entry]:
        """The chunks of a file, then the entry that holds for exactly these bytes.

        A file that changes meanwhile is read again: ``b""`` says that what came before does not count.

        Raises:
            CheckoutError: it changes all the time. OSError: it is gone, or unreadable.
        """
        for part in self._parts(path):
            yield _entry(part) if isinstance(part, tuple) else part

    def _parts(self, path: str) -> Iterator[bytes | _Known]:
        """As :meth:`read`, with the file's signature and hash at the end."""
        for _ in range(_READ_TRIES):
            with open_beneath(self.checkout.root, path) as file:
                before = _signature(os.fstat(file.fileno()))
                digest = hashlib.sha256()
                left_bytes = before[0]  # no more: a file that grows as fast as it is read has no end
                while chunk := file.read(min(left_bytes, CHUNK_BYTES)):
                    digest.update(chunk)
                    left_bytes -= len(chunk)
                    yield chunk
                after = _signature(os.fstat(file.fileno()))
            if after == before:
                yield before, digest.hexdigest()
                return
            yield b""
        raise CheckoutError(
            f"{path} changes all the time while it is read: close its writer, or put it in .skyrlignore"
        )

    def _ignore(self) -> Ignore | None:
        try:
            return Ignore(read_small(self.checkout.root / contract.IGNORE_FILE, MAX_BYTES).decode("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise CheckoutError(f"{contract.IGNORE_FILE} cannot be read: {reason_of(error)}") from None


def _signature(info: os.stat_result) -> _Signature:
    return (info.st_size, info.st_mtime_ns, info.st_ino, info.st_mode, info.st_ctime_ns)


def _entry(known: _Known) -> Entry:
    signature, digest = known
    return ("f", stat.S_IMODE(signature[3]), digest, signature[0])


def largest_folders(manifest: Manifest, count: int = 3) -> list[tuple[str, int]]:
    """The top-level folders with the most bytes in them: (name, bytes), largest first."""
    sizes: Counter[str] = Counter()
    for path, entry in manifest.items():
        size_bytes = entry[-1]
        if entry[0] == "f" and isinstance(size_bytes, int):
            sizes[path.split("/", 1)[0]] += size_bytes
    return sizes.most_common(count)


def fullest_folders(manifest: Manifest, count: int = 3) -> list[tuple[str, int]]:
    """The top-level folders with the most files in them: (name, files), fullest first."""
    return Counter(path.split("/", 1)[0] for path in manifest).most_common(count)
