"""One pass of the archive: copies what is new of some journals to the volume. Done in a process of its own.

Nothing is known from the pass before but what lies on the volume. A file of ours there is complete or not there: it is
written beside its place and renamed, and a pack, which grows at its end, is cut back where that fails. Of a run that
goes on the index's last record stays out, as it can still grow, and the streams go as far as the index did in one
moment: what is there is what the run had written then, in its order.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

from skyrl_magic.agent.volume_tree import VolumeTree, write_all
from skyrl_magic.core import protocol
from skyrl_magic.core.protocol.catalog import MAX_CATALOG_BYTES, SUFFIX, Packed

#: A journal of an ended run that is no larger goes into a pack, in bytes.
PACKED_BYTES = 64 * 1024
#: Of a pack's name.
_NUMBER = re.compile("[0-9]{6,12}")
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Job(NamedTuple):
    """A run whose journal is copied."""

    run_id: str
    folder: Path
    ended: bool


class ArchivePass:
    """Copies journals and the catalog.

    Args:
        volume_dir: the volume.
        key: of the session: part of the names of its files.
        max_bytes: of each of a run's streams no more is kept.
    """

    def __init__(self, volume_dir: Path, key: str, max_bytes: int) -> None:
        self.tree = VolumeTree(volume_dir)
        self._key = key
        self._max_bytes = max_bytes
        self._pack = ""
        self.wrote = False
        self.failure = ""
        """Why the last write failed; empty where all worked."""
        self.problems: Dict[str, str] = {}
        """What is not kept of a run's log, in one line."""
        self.packed: Dict[str, Packed] = {}

    def copy(self, job: Job) -> None:
        """Copy what is new of a journal; what fails is in :attr:`problems`."""
        target = f"{protocol.ARCHIVED_RUNS}/{job.run_id}"
        kept = sizes_of(self.tree, target)
        why = ""
        try:
            if job.ended and not kept and self._copied_into_pack(job):
                return
            ends = _ends(job, kept)
            if max(ends.values()) > self._max_bytes:
                why = f"%config SkyRLMagic.keep_runs_gb allows {self._max_bytes} bytes of a stream on the volume"
            for name, end in ends.items():
                self._copy(job.folder / name, target, name, kept.get(name, 0), min(end, self._max_bytes))
        except FileNotFoundError:
            return  # it has no journal, or none any more
        except OSError as error:
            why = self.failure = cause(error)
        lost = _not_kept(job, sizes_of(self.tree, target)) if why else ""
        if lost:
            self.problems[job.run_id] = f"{why}: the log of run {job.run_id} is not kept there beyond {lost}"

    def replace(self, folder: str, name: str, data: bytes) -> None:
        """Write a file of the archive whole, or leave the old one. Raises ``OSError``."""
        self.tree.replace(f"{protocol.ARCHIVE}/{self._key}.new", folder, name, data)
        self.wrote = True

    def write_catalog(self, data: bytes) -> None:
        """Write the session's catalog where it is another one than before; what fails is in :attr:`failure`."""
        name, before = f"{self._key}{SUFFIX}", b""
        with contextlib.suppress(OSError, ValueError):
            before = self.tree.read(protocol.CATALOGS, name, MAX_CATALOG_BYTES)
        try:
            if before != data:
                self.replace(protocol.CATALOGS, name, data)
        except OSError as error:
            self.failure = cause(error)

    def _copy(self, source: Path, target: str, name: str, at: int, end: int) -> None:
        """Bring the segments of a journal's file from byte ``at`` to ``end``."""
        if end <= at:
            return
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            start = at - at % protocol.SEGMENT_BYTES
            while start < end:
                size = _segment_bytes(end - start)
                self.replace(target, protocol.segment_name(name, start), os.pread(fd, size, start))
                start += size
        finally:
            os.close(fd)

    def _copied_into_pack(self, job: Job) -> bool:
        """Whether the journal is small, and now in a pack. Raises ``OSError``."""
        paths = [job.folder / name for name in protocol.JOURNAL_FILES]
        if sum(_size(path) for path in paths) > PACKED_BYTES:
            return False
        parts = [path.read_bytes() if path.is_file() else b"" for path in paths]
        data = b"".join(parts)
        pack, start = self._room(), 0
        if data:
            fd = self.tree.opened_to_append(protocol.PACKS, pack)
            start = os.fstat(fd).st_size
            try:
                write_all(fd, data)
            except OSError:
                os.ftruncate(fd, start)
                raise
            finally:
                os.close(fd)
        self.packed[job.run_id] = Packed(pack, start, tuple(len(part) for part in parts))
        self.wrote = True
        return True

    def _room(self) -> str:
        """The pack that takes the next journal."""
        if not self._pack:
            numbers = [name.rpartition("-") for name in self.tree.entries(protocol.PACKS)]
            mine = [int(number) for key, _, number in numbers if key == self._key and _NUMBER.fullmatch(number)]
            self._pack = self._pack_name(max(mine, default=0))
        if self._size_of_pack() >= protocol.SEGMENT_BYTES:
            self._pack = self._pack_name(int(self._pack.rpartition("-")[2]) + 1)
        return self._pack

    def _pack_name(self, number: int) -> str:
        return f"{self._key}-{number:06d}"

    def _size_of_pack(self) -> int:
        try:
            return self.tree.status(protocol.PACKS, self._pack).st_size
        except FileNotFoundError:
            return 0


def cause(error: OSError) -> str:
    """Why something could not be written on the volume."""
    return "the volume is full" if error.errno in _FULL else f"the volume cannot be written ({error.strerror})"


def sizes_of(tree: VolumeTree, folder: str) -> Dict[str, int]:
    """How many bytes of each of a journal's files are in the segments in ``folder``."""
    found: Dict[str, int] = {}
    for entry in tree.entries(folder):
        segment = protocol.parse_segment(entry)
        if segment is not None:
            with contextlib.suppress(OSError):
                status = tree.status(folder, entry)
                if stat.S_ISREG(status.st_mode):
                    name, start = segment
                    found[name] = max(found.get(name, 0), start + status.st_size)
    return found


def _segment_bytes(left: int) -> int:
    """How many of the bytes that are left the next segment takes: a large one is full at once, as it never grows."""
    units = min(left // protocol.SEGMENT_BYTES, protocol.LARGE_SEGMENT)
    return units * protocol.SEGMENT_BYTES or left


def _ends(job: Job, kept: Dict[str, int]) -> Dict[str, int]:
    """Up to which byte each of a journal's files can be copied now, the index first: a reader clamps its records."""
    sizes = {name: _size(job.folder / name) for name in protocol.JOURNAL_FILES}
    index_bytes = sizes[protocol.INDEX] - sizes[protocol.INDEX] % protocol.INDEX_RECORD.size
    if job.ended:
        return {**sizes, protocol.INDEX: index_bytes}
    grown = {stream for stream in protocol.JOURNAL_STREAMS if sizes[stream] > kept.get(stream, 0)}
    ends = {protocol.INDEX: max(index_bytes - protocol.INDEX_RECORD.size, 0)}
    fd = os.open(job.folder / protocol.INDEX, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return {**ends, **_named(fd, index_bytes, grown)}
    finally:
        os.close(fd)


def _named(fd: int, index_bytes: int, streams: "set[str]") -> Dict[str, int]:
    """The ends of ``streams`` as the first ``index_bytes`` of the index name them, read from its end."""
    found: Dict[str, int] = {}
    end = index_bytes
    while end and len(found) < len(streams):
        start = max(end - protocol.SEGMENT_BYTES, 0)
        for stream, _, stream_end in reversed(list(protocol.index_records(os.pread(fd, end - start, start)))):
            if stream in streams:
                found.setdefault(stream, stream_end)
        end = start
    return found


def _not_kept(job: Job, kept: Dict[str, int]) -> str:
    """From which bytes on a run's streams are not in the archive; empty where all of them are."""
    missing: List[Tuple[str, int]] = []
    for stream in protocol.JOURNAL_STREAMS:
        size, there = _size(job.folder / stream), kept.get(stream, 0)
        if there < size:
            missing.append((stream, there))
    return ", ".join(f"byte {there} of {stream}" for stream, there in missing)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
