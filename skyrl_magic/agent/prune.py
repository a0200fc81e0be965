"""What goes from the archive: runs that are old, and the oldest of what is too much. Never one that goes on.

A container sees of another session what that had committed when this one started, so nothing is judged by whether
somebody writes there: a session without an end counts as living until its timeout is over.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Set

from skyrl_magic.core import protocol

#: How long after its timeout a session counts as living; and how long at all where its timeout is not known. In
#: seconds: Modal's containers live for 24 h at most.
_SLACK_S = 3600.0
_LONGEST_S = 24 * 3600.0
_SUFFIX = ".json"

Catalog = Dict[str, Any]


class Keep(NamedTuple):
    """What is kept: so old, and so much in all."""

    age_s: float
    size_bytes: int


class _Run(NamedTuple):
    """A run of a catalog; the oldest sorts first."""

    at: float
    run_id: str
    size_bytes: int
    ended: bool


class Pruning:
    """One look at the archive, and what it removes.

    Args:
        volume_dir: the volume.
        key: of this session.
        own: its catalog as it will be written, by whoever prunes.
        now: Unix time.
        replace: writes a file whole, or raises ``OSError``.
    """

    def __init__(
        self, volume_dir: Path, key: str, own: Catalog, now: float, replace: Callable[[Path, bytes], None]
    ) -> None:
        self._volume = volume_dir
        self._own_key = key
        self._now = now
        self._replace = replace
        self._catalogs = {**self._read_catalogs(), key: own}
        self.removed: Set[str] = set()
        """The ids of the runs that went."""
        self.changed = False

    def prune(self, keep: Keep) -> None:
        """Remove what has to go. What cannot be removed now is tried again next time."""
        candidates: List[_Run] = []
        total = 0
        for key, catalog in self._catalogs.items():
            runs = [*_runs(catalog)]
            total += sum(run.size_bytes for run in runs)
            own = key == self._own_key
            candidates += [run for run in runs if (run.ended if own else not _lives(catalog, self._now))]
        for run in sorted(candidates):
            if self._now - run.at > keep.age_s or total > keep.size_bytes:
                total -= run.size_bytes
                self.removed.add(run.run_id)
        with contextlib.suppress(OSError):
            self._remove_runs(keep)
            self._rewrite_catalogs()
            self._remove_packs(keep)

    def _read_catalogs(self) -> Dict[str, Catalog]:
        found = {}
        for path in _entries(self._volume / protocol.CATALOGS):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # not one of ours
                catalog = json.loads(path.read_text(encoding="utf-8"))
                _lives(catalog, self._now)
                for _ in _runs(catalog):
                    pass
                found[path.name[: -len(_SUFFIX)]] = catalog
        return found

    def _remove_runs(self, keep: Keep) -> None:
        known = {run["run_id"] for catalog in self._catalogs.values() for run in catalog["runs"]}
        for folder in _entries(self._volume / protocol.ARCHIVED_RUNS):
            lost = folder.name not in known and self._now - folder.stat().st_mtime > keep.age_s
            if lost or folder.name in self.removed:
                for path in _entries(folder):
                    path.unlink()
                folder.rmdir()
                self.changed = True

    def _rewrite_catalogs(self) -> None:
        for key, catalog in self._catalogs.items():
            runs = [run for run in catalog["runs"] if run["run_id"] not in self.removed]
            if key == self._own_key or (runs and len(runs) == len(catalog["runs"])):
                continue
            path = self._volume / protocol.CATALOGS / f"{key}{_SUFFIX}"
            if runs:
                self._replace(path, json.dumps({**catalog, "runs": runs}).encode())
            else:
                path.unlink()
            self.changed = True

    def _remove_packs(self, keep: Keep) -> None:
        """Remove the packs of which no run is left; the own ones may take more, and another living session's too."""
        kept = [run for catalog in self._catalogs.values() for run in catalog["runs"]]
        used = {run["packed"][0] for run in kept if run["run_id"] not in self.removed and run.get("packed")}
        for pack in _entries(self._volume / protocol.PACKS):
            key = pack.name.rpartition("-")[0]
            catalog = self._catalogs.get(key)
            if catalog is None:  # perhaps not committed yet
                gone = self._now - pack.stat().st_mtime > max(keep.age_s, _LONGEST_S)
            else:
                gone = key != self._own_key and not _lives(catalog, self._now)
            if gone and pack.name not in used:
                pack.unlink()
                self.changed = True


def _runs(catalog: Catalog) -> Iterator[_Run]:
    """The runs of a catalog. Raises KeyError or TypeError for what is none of ours."""
    for run in catalog["runs"]:
        size_bytes = sum(run[f"{stream}_bytes"] + 0 for stream in protocol.JOURNAL_STREAMS)
        yield _Run(run["started_at"] + run["duration_s"], run["run_id"] + "", size_bytes, run["state"] == "ended")


def _lives(catalog: Optional[Catalog], now: float) -> bool:
    if catalog is None or catalog["ended_at"] is not None:
        return False
    return bool(now < catalog["started_at"] + (catalog["timeout_s"] or _LONGEST_S) + _SLACK_S)


def _entries(folder: Path) -> List[Path]:
    try:
        return [folder / name for name in os.listdir(folder)]  # noqa: PTH208
    except OSError:
        return []
