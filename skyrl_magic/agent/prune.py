"""What goes from the archive: runs that are old, and the oldest of what is too much. Never one that goes on.

A container sees of another session what that had committed when this one started, so nothing is judged by whether
somebody writes there: a session without an end counts as living until its timeout is over.
"""

from __future__ import annotations

import contextlib
import json
import stat
from typing import Any, Callable, Dict, List, NamedTuple, Set

from skyrl_magic.agent.volume_tree import VolumeTree
from skyrl_magic.core import protocol
from skyrl_magic.core.protocol.catalog import (
    MAX_CATALOG_BYTES,
    SUFFIX,
    Catalog,
    catalog_of,
    is_plain_name,
    read_catalog,
)

#: How long after its timeout a session counts as living; and how long at all where its timeout is not known. In
#: seconds: Modal's containers live for 24 h at most.
_SLACK_S = 3600.0
_LONGEST_S = 24 * 3600.0
#: So much of catalogs is read in all, in bytes.
_MAX_READ_BYTES = 256 << 20


class Keep(NamedTuple):
    """What is kept: so old, and so much in all."""

    age_s: float
    size_bytes: int


class _Run(NamedTuple):
    """A run that may go; the oldest sorts first."""

    at: float
    run_id: str
    size_bytes: int


class Pruning:
    """One look at the archive, and what it removes: of this session's owner alone, whatever others' catalogs say.

    Args:
        tree: of the volume.
        key: of this session.
        own: its catalog as it will be written, by whoever prunes.
        now: Unix time.
        replace: writes a file of a folder whole, or raises ``OSError``.
    """

    def __init__(
        self, tree: VolumeTree, key: str, own: Dict[str, Any], now: float, replace: Callable[[str, str, bytes], None]
    ) -> None:
        self._tree = tree
        self._own_key = key
        self._now = now
        self._replace = replace
        mine = catalog_of(own)
        self._catalogs = {**self._read_catalogs(), key: mine}
        self._owned = {name: found for name, found in self._catalogs.items() if found.owner_id == mine.owner_id}
        self.removed: Set[str] = set()
        """The ids of the runs that went."""
        self.changed = False

    def prune(self, keep: Keep) -> None:
        """Remove what has to go. What cannot be removed now is tried again next time."""
        candidates: List[_Run] = []
        total = 0
        for key, catalog in self._owned.items():
            total += sum(run.size_bytes for run in catalog.runs)
            for run in catalog.runs:
                over = run.summary.state == "ended" if key == self._own_key else not _lives(catalog, self._now)
                if over:
                    at = run.summary.started_at + run.summary.duration_s
                    candidates.append(_Run(at, run.summary.run_id, run.size_bytes))
        needed = self._needed()
        for at, run_id, size_bytes in sorted(candidates):
            if run_id not in needed and (self._now - at > keep.age_s or total > keep.size_bytes):
                total -= size_bytes
                self.removed.add(run_id)
        with contextlib.suppress(OSError):
            self._remove_runs(keep)
            self._rewrite_catalogs()
            self._remove_packs(keep)

    def _needed(self) -> Set[str]:
        """The runs that somebody's session may still write; the own ones that go on, too."""
        needed: Set[str] = set()
        for key, catalog in self._catalogs.items():
            if key == self._own_key:
                needed.update(run.summary.run_id for run in catalog.runs if run.summary.state != "ended")
            elif _lives(catalog, self._now):
                needed.update(run.summary.run_id for run in catalog.runs)
        return needed

    def _read_catalogs(self) -> Dict[str, Catalog]:
        found: Dict[str, Catalog] = {}
        left = _MAX_READ_BYTES
        for name in self._tree.entries(protocol.CATALOGS):
            if not name.endswith(SUFFIX) or not is_plain_name(name):
                continue
            with contextlib.suppress(OSError, ValueError):  # not one of ours
                data = self._tree.read(protocol.CATALOGS, name, min(MAX_CATALOG_BYTES, left))
                left -= len(data)
                found[name[: -len(SUFFIX)]] = read_catalog(data)
        return found

    def _remove_runs(self, keep: Keep) -> None:
        known = {run.summary.run_id for catalog in self._catalogs.values() for run in catalog.runs}
        for name in self._tree.entries(protocol.ARCHIVED_RUNS):
            status = self._tree.status(protocol.ARCHIVED_RUNS, name)
            if not is_plain_name(name) or not stat.S_ISDIR(status.st_mode):
                continue  # a link leads to what is none of ours
            lost = name not in known and self._now - status.st_mtime > keep.age_s
            if lost or name in self.removed:
                self._remove_run(name)

    def _remove_run(self, name: str) -> None:
        """Remove the segments in a run's folder, and the folder where it is empty then."""
        folder = f"{protocol.ARCHIVED_RUNS}/{name}"
        for entry in self._tree.entries(folder):
            if protocol.parse_segment(entry) is not None:
                self._tree.unlink(folder, entry)
                self.changed = True
        with contextlib.suppress(OSError):  # somebody has put something else there
            self._tree.rmdir(protocol.ARCHIVED_RUNS, name)
            self.changed = True

    def _rewrite_catalogs(self) -> None:
        for key, catalog in self._owned.items():
            runs = [run.entry for run in catalog.runs if run.summary.run_id not in self.removed]
            if key == self._own_key or (runs and len(runs) == len(catalog.runs)):
                continue
            name = f"{key}{SUFFIX}"
            if runs:
                self._replace(protocol.CATALOGS, name, json.dumps({**catalog.values, "runs": runs}).encode())
            else:
                self._tree.unlink(protocol.CATALOGS, name)
            self.changed = True

    def _remove_packs(self, keep: Keep) -> None:
        """Remove the packs of which no run is left; the own ones may take more, and another living session's too."""
        kept = [run for catalog in self._catalogs.values() for run in catalog.runs]
        used = {run.packed.file for run in kept if run.packed and run.summary.run_id not in self.removed}
        for name in self._tree.entries(protocol.PACKS):
            status = self._tree.status(protocol.PACKS, name)
            key = name.rpartition("-")[0]
            catalog = self._catalogs.get(key)
            if catalog is None:  # perhaps not committed yet
                gone = self._now - status.st_mtime > max(keep.age_s, _LONGEST_S)
            else:
                gone = key in self._owned and key != self._own_key and not _lives(catalog, self._now)
            if gone and name not in used and is_plain_name(name) and stat.S_ISREG(status.st_mode):
                self._tree.unlink(protocol.PACKS, name)
                self.changed = True


def _lives(catalog: Catalog, now: float) -> bool:
    if catalog.ended_at is not None:
        return False
    return now < catalog.started_at + (catalog.timeout_s or _LONGEST_S) + _SLACK_S
