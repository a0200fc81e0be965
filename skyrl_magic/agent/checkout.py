"""The checkout in the container: what the client last said it is, and how a change is made.

The baseline is what the container has by the last word of a client, with a generation that grows with each change.
What runs write into the checkout is not in it and stays, unless a client says otherwise.

Files of a change are staged in a hidden folder of the checkout and put in place by :meth:`Checkout.apply`, together, so
a change that comes too late (``stale``) touches nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Dict, Iterator, List, Optional, Tuple

from skyrl_magic.agent import paths
from skyrl_magic.core import protocol

#: ``["f", mode, sha256 hex, size_bytes]``, ``["l", target]`` or ``["d", mode]``.
Entry = List[Any]
Files = Dict[str, Entry]

FILE = "f"
LINK = "l"
DIRECTORY = "d"
#: The one refusal that a client answers by looking again.
STALE = "stale"


class CheckoutRefusal(Exception):
    """A change that cannot be made; ``code`` is the one of ``Failed``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Checkout:
    """One client's view of the checkout.

    Args:
        root: the checkout's folder.
        state_dir: where the baseline lies.
    """

    def __init__(self, root: Path, state_dir: Path) -> None:
        self._root = root
        self._file = state_dir / paths.CHECKOUT_FILE
        self._lock_file = state_dir / paths.CHECKOUT_LOCK
        self._stage = root / f".skyrl_magic-{os.getpid()}"
        self._staged: Dict[str, Tuple[Path, int]] = {}
        self._open: Optional[Tuple[str, BinaryIO]] = None
        self._known: Tuple[Tuple[int, int], int, bytes] = ((0, 0), 0, b"")

    def state(self, request: protocol.GetCheckout) -> protocol.CheckoutState:
        """The answer to ``request``."""
        generation, payload = self._read()
        return protocol.CheckoutState(request.request, generation, b"" if request.generation == generation else payload)

    def require(self, generation: int) -> None:
        """Raise :class:`CheckoutRefusal` unless this is the checkout's generation now, or -1."""
        now = self._read()[0]
        if generation not in (-1, now):
            raise CheckoutRefusal(STALE, f"the checkout is at generation {now} by now")

    def sizes(self) -> Dict[str, int]:
        """The files that clients have sent, by absolute path, with their bytes."""
        files = load_baseline(self._file)[1]
        return {f"{self._root}/{path}": entry[-1] for path, entry in files.items() if entry[0] == FILE}

    def _read(self) -> Tuple[int, bytes]:
        info = self._file.stat()
        stamp = (info.st_ino, info.st_mtime_ns)
        if stamp != self._known[0]:
            generation, files = load_baseline(self._file)
            self._known = (stamp, generation, protocol.pack_json(files))
        return self._known[1:]

    def put(self, part: protocol.PutFile) -> None:
        """Stage one part of a file. Raises :class:`CheckoutRefusal` for a path that is none of the checkout's."""
        self._target(part.path)  # a link above it may go in the same change: the rest is seen when it is made
        if self._open is None or self._open[0] != part.path or part.offset == 0:
            self._abandon()
            if part.offset:
                raise CheckoutRefusal("bad_offset", f"{part.path}: a part at {part.offset} without those before it")
            self._stage.mkdir(exist_ok=True)
            self._open = (part.path, (self._stage / str(len(self._staged))).open("wb"))
        file = self._open[1]
        if file.tell() != part.offset:
            raise CheckoutRefusal("bad_offset", f"{part.path}: expected a part at {file.tell()}, not {part.offset}")
        file.write(part.payload)
        if part.last:
            self._open = None
            file.close()
            self._staged[part.path] = (Path(file.name), part.mode)

    def apply(self, request: protocol.ApplyCheckout) -> protocol.CheckoutState:
        """Make the change and record it. Raises :class:`CheckoutRefusal`; then what it named leaves the baseline."""
        try:
            change = protocol.unpack_json(request.payload)
            entries: Files = change.get("set", {})
            removed: List[str] = change.get("remove", [])
        except (protocol.ProtocolError, AttributeError) as error:
            raise CheckoutRefusal("bad_request", f"the change cannot be read: {error}") from None
        targets = {path: self._target(path) for path in (*entries, *removed)}
        with _locked(self._lock_file):
            generation, files = load_baseline(self._file)
            try:
                if generation != request.generation:
                    raise CheckoutRefusal(STALE, f"the checkout is at generation {generation} by now")
                for path in (*removed, *entries):
                    files.pop(path, None)
                done = False
                try:
                    self._change(entries, removed, targets)
                    done = True
                finally:
                    save_baseline(self._file, generation + 1, {**files, **entries} if done else files)
            except OSError as error:
                raise CheckoutRefusal("io_error", f"{error.filename}: {error.strerror}") from error
            finally:
                self.discard()
        return protocol.CheckoutState(request.request, generation + 1)

    def discard(self) -> None:
        """Forget what is staged."""
        self._abandon()
        self._staged.clear()
        if self._stage.exists():
            import shutil  # it would load compressors at every start

            shutil.rmtree(self._stage, ignore_errors=True)

    def _abandon(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _change(self, entries: Files, removed: List[str], targets: Dict[str, Path]) -> None:
        for path in sorted(removed, reverse=True):  # what lies in a folder before the folder
            self._refuse_links_out(targets[path])
            _remove(self._root, targets[path])
        for path, entry in sorted(entries.items()):
            target = targets[path]
            self._make_parents(target)
            kind = entry[0]
            if kind == LINK:
                place_link(target, str(entry[1]))
            elif kind == DIRECTORY:
                place_directory(target, int(entry[1]))
            else:
                self._place_file(path, target, int(entry[1]))

    def _place_file(self, path: str, target: Path, mode: int) -> None:
        staged = self._staged.get(path)
        if staged is not None:
            staged[0].chmod(mode)
            _make_way(target)
            staged[0].replace(target)
        elif target.is_symlink() or not target.is_file():
            # A run deleted it: it leaves the baseline, so that the client that asks again sends it.
            raise CheckoutRefusal(STALE, f"{path} is not in the container any more")
        else:
            target.chmod(mode)

    def _target(self, path: str) -> Path:
        pure = PurePosixPath(path)
        if not path or "\0" in path or pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise CheckoutRefusal("bad_path", f"{path!r} is not a path inside the checkout")
        return self._root / pure

    def _refuse_links_out(self, target: Path) -> None:
        root = self._root.resolve()
        parent = target.parent.resolve()
        if parent != root and root not in parent.parents:
            raise CheckoutRefusal("bad_path", f"{target}: a symlink above it leaves the checkout")

    def _make_parents(self, target: Path) -> None:
        """Real folders above ``target``; a file, or a link inside the checkout, that was there gives way."""
        self._refuse_links_out(target)
        folder = self._root
        for part in target.relative_to(self._root).parts[:-1]:
            folder = folder / part
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                folder.unlink()
            folder.mkdir(exist_ok=True)


def _remove(root: Path, target: Path) -> None:
    """Delete what the user deleted, and the folders above it that are empty now; a run's files keep their folders."""
    try:
        if target.is_dir() and not target.is_symlink():
            target.rmdir()
        else:
            target.unlink()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError:
        if not target.is_dir():
            raise
        return
    folder = target.parent
    with contextlib.suppress(OSError):  # not empty, or gone with the path itself
        while folder != root:
            folder.rmdir()
            folder = folder.parent


def _make_way(target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        try:
            target.rmdir()
        except OSError:
            raise CheckoutRefusal(
                "conflict", f"{target} is a folder in the container and holds files of a run; move them away first"
            ) from None


def place_link(target: Path, destination: str) -> None:
    """Make ``target`` a symlink to ``destination``, in place of what was there."""
    _make_way(target)
    temporary = target.with_name(f"{target.name}.skyrl_magic-{os.getpid()}")
    temporary.symlink_to(destination)
    temporary.replace(target)


def place_directory(target: Path, mode: int) -> None:
    """Make ``target`` a folder; a file or a link that was there gives way."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        target.unlink()
    target.mkdir(exist_ok=True)
    target.chmod(mode)


def load_baseline(path: Path) -> Tuple[int, Files]:
    """The generation and the files of the baseline in ``path``."""
    value = paths.read_json(path)
    return value["generation"], value["files"]


def save_baseline(path: Path, generation: int, files: Files) -> None:
    """Replace the baseline in ``path``."""
    paths.write_json(path, {"generation": generation, "files": files})


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
