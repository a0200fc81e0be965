"""A run's output on disk, byte for byte, with the order in which it arrived.

A run's folder holds ``stdout`` and ``stderr`` as the run wrote them (a Python run's ``outputs`` too), and ``index``:
records as in ``core.protocol.INDEX_RECORD``. The last record grows in place while the same stream goes on. Readers
follow all three while they are written: bytes are on disk before the record that names them.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from skyrl_magic.core.protocol import INDEX, INDEX_RECORD, JOURNAL_STREAMS, OUTPUTS, STREAMS

_MAX_RECORD_BYTES = 1 << 30
#: At most so much of an index is read at one go, in bytes: 65,536 records.
_INDEX_READ_BYTES = 1 << 20


class Segment(NamedTuple):
    """Bytes ``[start, end)`` of a stream."""

    stream: str
    start: int
    end: int


class JournalWriter:
    """Writes a journal; used by the run's shim alone.

    A disk that is full must never block or end the run: what cannot be written is counted and dropped, and as the
    journal of a stream is a prefix of what the run wrote, nothing more of that stream is kept after it.

    Args:
        folder: the run's folder.
        streams: what it keeps apart.
        make_room: called on a full disk; whether it has made room, so that the write is worth another try.
    """

    def __init__(
        self, folder: Path, streams: Sequence[str] = STREAMS, make_room: Callable[[], bool] = lambda: False
    ) -> None:
        self._make_room = make_room
        self._paths = [folder / name for name in (*streams, INDEX)]
        self._files: List[int] = []
        self._index = -1
        self._open(os.O_CREAT | os.O_TRUNC)
        self.sizes = [0] * len(streams)
        self.lost_bytes = 0
        self.error = ""
        self._broken = [False] * len(streams)
        self._record_at = -INDEX_RECORD.size
        self._last = -1
        self._last_start = 0

    def _open(self, flags: int) -> None:
        *self._files, self._index = (os.open(p, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600) for p in self._paths)

    def _reopen(self) -> None:
        """Where it was closed, go on behind what it has."""
        if not self._files:
            self._open(0)
            for fd, size in zip(self._files, self.sizes):  # noqa: B905  (Python 3.9 has no strict)
                os.lseek(fd, size, os.SEEK_SET)

    @property
    def descriptors(self) -> Tuple[int, ...]:
        """Of its files; none while it rests."""
        return (*self._files, self._index) if self._files else ()

    def write(self, stream: int, data: memoryview) -> None:
        """Append ``data`` to stream number ``stream`` (its place in :data:`protocol.JOURNAL_STREAMS`)."""
        written = 0
        if not self._broken[stream]:
            try:
                self._reopen()
                while written < len(data):
                    written += self._append(stream, data[written:])
                self._record(stream, written)
            except OSError as error:
                self._broken[stream] = True
                self.error = error.strerror or str(error)
                with contextlib.suppress(OSError, IndexError):  # not opened: its folder is gone
                    os.ftruncate(self._files[stream], self.sizes[stream] + written)
                    self._record(stream, written)
        self.lost_bytes += len(data) - written

    def _append(self, stream: int, data: memoryview) -> int:
        try:
            return os.write(self._files[stream], data)
        except OSError as error:
            if error.errno != errno.ENOSPC or not self._make_room():
                raise
            return os.write(self._files[stream], data)

    @property
    def lost_line(self) -> str:
        """What of the output could not be kept, and why; empty where all was."""
        return f"{self.lost_bytes} bytes of output could not be kept: {self.error}" if self.lost_bytes else ""

    def close(self) -> None:
        """Close the files, until something is written again."""
        for fd in self.descriptors:
            os.close(fd)
        self._files = []

    def _record(self, stream: int, count: int) -> None:
        if count == 0:
            return
        end = self.sizes[stream] + count
        if stream != self._last or end - self._last_start > _MAX_RECORD_BYTES:
            self._last = stream
            self._last_start = self.sizes[stream]
            self._record_at += INDEX_RECORD.size
        self.sizes[stream] = end
        os.pwrite(self._index, INDEX_RECORD.pack(stream, end - self._last_start, self._last_start), self._record_at)


class Cursor:
    """Follows a journal from given offsets on, for some of its streams, in order of arrival.

    Args:
        folder: the run's folder.
        offsets: where to begin, for each stream that is wanted.
        ends: where to stop, for a stream that is not wanted to its end.
    """

    def __init__(self, folder: Path, offsets: Dict[str, int], ends: Optional[Dict[str, int]] = None) -> None:
        self._folder = folder
        self._ends = ends or {}
        self._read_to = dict(offsets)
        self._index: Optional[int] = None
        self._files: Dict[str, int] = {}
        self._next_record = 0
        #: Whether the last call left records unread.
        self.more = False

    def new_segments(self, *, ended: bool) -> List[Segment]:
        """What the journal has since the last call, neighbours merged: one block of the index at most.

        ``ended`` says that nothing is written any more: then bytes that no record names are taken too.
        """
        found: List[Segment] = []
        self.more = self._open() and self._take_records(found)
        if ended and not self.more:
            for stream in self._read_to:
                with contextlib.suppress(OSError):
                    self._take(found, stream, (self._folder / stream).stat().st_size)
        return found

    def read(self, stream: str, start: int, end: int) -> bytes:
        """Bytes ``[start, end)`` of a stream; fewer where the file is shorter."""
        fd = self._files.get(stream)
        if fd is None:
            fd = self._files[stream] = os.open(self._folder / stream, os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(fd, end - start, start)

    def close(self) -> None:
        """Close the files."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()
        if self._index is not None:
            os.close(self._index)
            self._index = None

    def _open(self) -> bool:
        if self._index is None:
            try:
                self._index = os.open(self._folder / INDEX, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
        return True

    def _take_records(self, found: List[Segment]) -> bool:
        """Read some records; whether there may be more. The last one stays current, because it can still grow."""
        assert self._index is not None  # noqa: S101  (its only caller opened it)
        data = os.pread(self._index, _INDEX_READ_BYTES, self._next_record * INDEX_RECORD.size)
        count = len(data) // INDEX_RECORD.size
        for number, length, offset in INDEX_RECORD.iter_unpack(data[: count * INDEX_RECORD.size]):
            self._take(found, JOURNAL_STREAMS[number], offset + length)
        self._next_record += max(count - 1, 0)
        return len(data) == _INDEX_READ_BYTES

    def _take(self, found: List[Segment], stream: str, end: int) -> None:
        start = self._read_to.get(stream)
        end = min(end, self._ends.get(stream, end))
        if start is None or end <= start:
            return
        self._read_to[stream] = end
        if found and found[-1].stream == stream:
            found[-1] = Segment(stream, found[-1].start, end)
        else:
            found.append(Segment(stream, start, end))


def sizes(folder: Path) -> Tuple[int, int, int]:
    """How many bytes of stdout, stderr and outputs the journal in ``folder`` holds."""
    found = dict.fromkeys(JOURNAL_STREAMS, 0)
    for stream in JOURNAL_STREAMS:
        with contextlib.suppress(OSError):
            found[stream] = (folder / stream).stat().st_size
    return found[STREAMS[0]], found[STREAMS[1]], found[OUTPUTS]
