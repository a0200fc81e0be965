"""Runs on the volume: the catalogs of their sessions, and their journals, read without a container.

The layout is that of ``core.protocol.journal_index``. What lies there was written by containers: nothing of it is
trusted, and what is none of ours is passed over.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import NotFound, SessionError, TooLarge
from skyrl_magic.core.ports import Volume, VolumeFile
from skyrl_magic.core.protocol.catalog import (
    MAX_CATALOG_BYTES,
    MAX_PACK_BYTES,
    SUFFIX,
    CatalogRun,
    is_plain_name,
    read_catalog,
)

#: How many files are read at once.
_AT_ONCE = 16
#: So much of a journal is fetched ahead, and so much is kept, in bytes, or one segment.
_AHEAD_BYTES = 8 << 20
_KEPT_BYTES = 32 << 20
#: How long a session without an end can still be alive after its timeout; and at most where that is not known. In
#: seconds, as in the agent's ``prune``.
_SLACK_S = 3600.0
_LONGEST_S = 24 * 3600.0
#: So many catalogs are read, the newest ones, and so much of them in all, in bytes.
_MAX_CATALOGS = 10_000
_MAX_READ_BYTES = 256 << 20
#: No index of ours is larger, in bytes: it has a record for each piece of a stream.
_MAX_INDEX_BYTES = 64 << 20
_SEGMENT_MAX_BYTES = protocol.SEGMENT_BYTES * protocol.LARGE_SEGMENT


@dataclass(frozen=True)
class ArchivedSession:
    """A session as its catalog tells of it."""

    name: str
    owner: str
    started_at: float
    timeout_s: float
    ended_at: float | None
    """None where its container has not said that it ends: it lives, or has died."""
    reason: str
    """Why it ended."""
    seen_at: float
    """When the catalog was last written."""

    def may_live(self, now: float) -> bool:
        """Whether its container can still be there, as far as the catalog tells."""
        return self.ended_at is None and now < self.started_at + (self.timeout_s or _LONGEST_S) + _SLACK_S


@dataclass(frozen=True)
class ArchivedRun:
    """A run as the catalog of its session has it."""

    summary: protocol.RunSummary
    session: ArchivedSession
    reason: str
    """Why the session ended it; empty where the session did not."""
    packed: tuple[str, int, tuple[int, ...]] | None
    """The pack that has its journal, the first byte, and the sizes of the journal's files; None: it has a folder."""

    @property
    def run_id(self) -> str:
        """Its id."""
        return self.summary.run_id

    @property
    def ended(self) -> bool:
        """Whether its end reached the volume."""
        return self.summary.state == "ended"


def archived_runs(volume: Volume) -> list[ArchivedRun]:
    """The runs of every session that wrote to the volume, in no order. Raises BackendError."""
    try:
        files = _catalogs(volume.list(protocol.CATALOGS))
    except NotFound:
        return []
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="skyrl-catalogs") as pool:
        catalogs = pool.map(lambda file: _read(volume, file.path), files)
        return [run for file, data in zip(files, catalogs, strict=True) for run in _runs(data, file.modified_at)]


def _catalogs(files: Sequence[VolumeFile]) -> Sequence[VolumeFile]:
    """Of what lies with the catalogs those that may be one, as far as they are read."""
    ours = [
        file
        for file in files
        if file.name.endswith(SUFFIX) and is_plain_name(file.name) and file.size_bytes <= MAX_CATALOG_BYTES
    ]
    ours.sort(key=lambda file: file.modified_at, reverse=True)
    sums = itertools.accumulate(file.size_bytes for file in ours)
    return [file for file, total in zip(ours[:_MAX_CATALOGS], sums, strict=False) if total <= _MAX_READ_BYTES]


def _read(volume: Volume, path: str) -> bytes:
    try:
        return volume.read(path, MAX_CATALOG_BYTES)
    except (NotFound, TooLarge):  # it was pruned meanwhile, or is none of ours
        return b""


def _runs(data: bytes, modified_at: float) -> Iterator[ArchivedRun]:
    with contextlib.suppress(ValueError):
        catalog = read_catalog(data)
        session = ArchivedSession(
            name=catalog.session,
            owner=catalog.owner,
            started_at=catalog.started_at,
            timeout_s=catalog.timeout_s,
            ended_at=catalog.ended_at,
            reason=catalog.reason,
            seen_at=modified_at,
        )
        yield from (_run(run, session) for run in catalog.runs)


def _run(run: CatalogRun, session: ArchivedSession) -> ArchivedRun:
    packed = None if run.packed is None else (run.packed.file, run.packed.start, run.packed.sizes)
    return ArchivedRun(run.summary, session, run.reason, packed)


class ArchivedJournal:
    """What of a run's journal is on the volume; to be closed. Not for several threads.

    Args:
        volume: where it lies.
        run: whose it is.

    Raises:
        BackendError: it cannot be read. SessionError: it is damaged.
    """

    def __init__(self, volume: Volume, run: ArchivedRun) -> None:
        self._volume = volume
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="skyrl-journal")
        self._parts: dict[tuple[str, range], Future[bytes]] = {}
        self._segments: dict[str, list[range]] = {name: [] for name in protocol.JOURNAL_FILES}
        """The bytes of each file that a segment has; they follow one another."""
        self._is_packed = run.packed is not None
        self._unpacked_files: dict[str, bytes] = {}
        self._folder = f"{protocol.ARCHIVED_RUNS}/{run.run_id}"
        try:
            self.sizes = self._listed() if run.packed is None else self._unpacked(*run.packed)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave what is under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def pieces(self) -> Iterator[tuple[str, int, int]]:
        """Stream, start and end of what is there, in the order in which it was written."""
        reached = dict.fromkeys(protocol.JOURNAL_STREAMS, 0)
        if self.sizes[protocol.INDEX] > _MAX_INDEX_BYTES:
            raise SessionError(f"{self._folder} on the volume is damaged: its index is too large")
        index = self.read(protocol.INDEX, 0, self.sizes[protocol.INDEX])
        for stream, _, named_end in protocol.index_records(index):
            end = min(named_end, self.sizes[stream])
            if end > reached[stream]:
                yield stream, reached[stream], end
                reached[stream] = end
        for stream, start in reached.items():
            if start < self.sizes[stream]:
                yield stream, start, self.sizes[stream]

    def read(self, name: str, start: int, end: int) -> bytes:
        """The bytes ``[start, end)`` of one of its files, as far as they are there. Raises BackendError."""
        end = min(end, self.sizes[name])
        if self._is_packed:
            return self._unpacked_files[name][start:end]
        segments = self._segments[name]
        first = bisect.bisect_right(segments, start, key=lambda segment: segment.start) - 1
        parts = []
        for number in range(max(first, 0), bisect.bisect_left(segments, end, key=lambda segment: segment.start)):
            at = segments[number].start
            parts.append(self._part(name, number, end)[max(start - at, 0) : end - at])
        return b"".join(parts)

    def _listed(self) -> dict[str, int]:
        """The sizes of what the run's folder has: of each file the segments that follow one another."""
        found: dict[tuple[str, int], int] = {}
        files: Sequence[VolumeFile] = ()
        with contextlib.suppress(NotFound):  # it had written nothing, or was pruned
            files = self._volume.list(self._folder)
        for file in files:
            segment = protocol.parse_segment(file.name)
            if segment is not None:
                found[segment] = file.size_bytes
        sizes = dict.fromkeys(protocol.JOURNAL_FILES, 0)
        for (name, start), size_bytes in sorted(found.items()):
            if start == sizes[name] and size_bytes <= _SEGMENT_MAX_BYTES:
                sizes[name] += size_bytes
                self._segments[name].append(range(start, sizes[name]))
        return sizes

    def _unpacked(self, pack: str, start: int, sizes: tuple[int, ...]) -> dict[str, int]:
        try:
            data = self._volume.read(f"{protocol.PACKS}/{pack}", MAX_PACK_BYTES) if any(sizes) else b""
        except TooLarge:
            data, sizes = b"", ()
        if len(sizes) != len(protocol.JOURNAL_FILES) or min(sizes, default=0) < 0 or start + sum(sizes) > len(data):
            raise SessionError(f"{protocol.PACKS}/{pack} on the volume is damaged")
        for name, size_bytes in zip(protocol.JOURNAL_FILES, sizes, strict=True):
            self._unpacked_files[name] = data[start : start + size_bytes]
            start += size_bytes
        return dict(zip(protocol.JOURNAL_FILES, sizes, strict=True))

    def _part(self, name: str, number: int, wanted_to: int) -> bytes:
        """A segment; those after it are fetched meanwhile, where they are wanted."""
        segments = self._segments[name]
        part = self._fetched(name, segments[number])
        ahead_to = min(wanted_to, segments[number].stop + _AHEAD_BYTES)
        for ahead in itertools.takewhile(lambda segment: segment.start < ahead_to, segments[number + 1 :]):
            self._fetched(name, ahead)
        data = part.result()
        while len(self._parts) > 1 and sum(len(segment) for _, segment in self._parts) > _KEPT_BYTES:
            del self._parts[next(iter(self._parts))]
        return data

    def _fetched(self, name: str, segment: range) -> Future[bytes]:
        key = (name, segment)
        if key not in self._parts:
            path = f"{self._folder}/{protocol.segment_name(name, segment.start)}"
            self._parts[key] = self._pool.submit(self._volume.read, path, _SEGMENT_MAX_BYTES)
        self._parts[key] = self._parts.pop(key)  # the newest one
        return self._parts[key]


def as_there(run: ArchivedRun, journal: ArchivedJournal) -> protocol.RunSummary:
    """The run with the sizes of what is on the volume."""
    out, err, outputs = (journal.sizes[stream] for stream in protocol.JOURNAL_STREAMS)
    return dataclasses.replace(run.summary, stdout_bytes=out, stderr_bytes=err, outputs_bytes=outputs)


def missing_line(run: ArchivedRun, journal: ArchivedJournal, *, dead: bool) -> str:
    """What of the run's log is not on the volume, or may not be; empty where all of it is.

    Args:
        run: the run.
        journal: what is there of it.
        dead: its container is known to be gone.
    """
    if run.summary.archive_error:
        return run.summary.archive_error
    there = [f"{journal.sizes[s]:,} of {s}" for s in protocol.STREAMS if journal.sizes[s] or s == protocol.STDOUT]
    if not run.ended:
        why = "its container died" if dead else "the run goes on, or its container died"
        return f"bytes after {' and '.join(there)} may be missing: {why} before they were committed"
    short = any(journal.sizes[s] < getattr(run.summary, f"{s}_bytes") for s in protocol.JOURNAL_STREAMS)
    return f"bytes after {' and '.join(there)} are missing on the volume" if short else ""
