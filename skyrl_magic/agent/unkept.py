"""What a session has written that ends with its container: files in the checkout and the home, not on the volume."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Collection, Dict, List, Mapping, Tuple

#: Left out at any depth: what comes again by itself, and what belongs to programs.
_NAMES = frozenset({"__pycache__", "node_modules", "site-packages", "ray_results"})
#: Less than this in all is not spoken of. In bytes.
LEAST_BYTES = 1_000_000
#: The look is given up after so long, in seconds: the user waits for the session's end.
_LOOK_S = 2.0
#: So many folders are named.
_NAMED = 5


def find_unkept(
    roots: Collection[Path], apart: Collection[Path], ours: Mapping[str, int], since: float
) -> List[Tuple[str, int]]:
    """The folders, or files, right below a root with what was written there: path and bytes, the largest first.

    Args:
        roots: where is looked; a root inside another one is looked at once.
        apart: what is not looked at: the volume.
        ours: files that a client has sent, by absolute path, with their bytes; one of another size was changed since.
        since: files that were not changed after this are left out. Unix time, in seconds.

    Returns:
        Nothing where it is less than :data:`LEAST_BYTES` in all.
    """
    sizes: Dict[str, int] = {}
    until = time.monotonic() + _LOOK_S
    skipped = {str(path) for path in (*apart, *roots)}
    for root in roots:
        for name, path in _entries(root, skipped):
            size_bytes = _size(path, skipped, ours, since, until)
            if size_bytes:
                sizes[str(root / name)] = size_bytes
    found = sorted(sizes.items(), key=lambda item: -item[1])
    return found[:_NAMED] if sum(sizes.values()) >= LEAST_BYTES else []


def _entries(folder: Path, skipped: Collection[str]) -> List[Tuple[str, str]]:
    try:
        names = os.listdir(folder)  # noqa: PTH208  (names are what is wanted)
    except OSError:
        return []
    found = [(name, f"{folder}/{name}") for name in names if not name.startswith(".") and name not in _NAMES]
    return [(name, path) for name, path in found if path not in skipped]


def _size(path: str, skipped: Collection[str], ours: Mapping[str, int], since: float, until: float) -> int:
    """The bytes that were written below ``path``, or in it; no link is followed."""
    waiting, size_bytes = [path], 0
    while waiting and time.monotonic() < until:
        path = waiting.pop()
        try:
            info = os.lstat(path)
        except OSError:  # it is gone, or nobody's business
            continue
        if stat.S_ISDIR(info.st_mode):
            waiting += [below for _, below in _entries(Path(path), skipped)]
        elif stat.S_ISREG(info.st_mode) and info.st_mtime > since and ours.get(path) != info.st_size:
            size_bytes += info.st_size
    return size_bytes
