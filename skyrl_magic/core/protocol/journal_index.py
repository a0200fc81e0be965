"""How a journal lies on disk, in the container and on the volume: what both sides read.

On the volume, below :data:`ARCHIVE`:

- ``sessions/KEY.json``, one catalog for each session (KEY is its name and when it started): what it was, how it ended,
  and its runs. listing runs costs one read for each session.
- ``runs/RUN/STREAM-START``: segments of a run's journal, of :data:`SEGMENT_BYTES` each, or, where much came at once, of
  up to :data:`LARGE_SEGMENT` times as many. The newest one of a stream is replaced whole until it is full, the others
  never change. Each file costs every commit a look at it, and a large segment is one block of Modal's volumes.
- ``packs/KEY-NUMBER``: the journals of runs that were over before they had a folder, and are small, one behind the
  other; the catalog says where each lies. A volume with a thousand short runs so has a handful of files of ours.

A journal's ``index`` has the order in which its streams were written, as records.
"""

from __future__ import annotations

import re
import struct
from typing import Iterator, Optional, Tuple, Union

from skyrl_magic.core.protocol.output import JOURNAL_STREAMS

INDEX = "index"
#: ``stream (u8) | 3 bytes of padding | length (u32) | offset (u64)``, little-endian, in order of arrival.
INDEX_RECORD = struct.Struct("<B3xIQ")
#: What a journal consists of, in the order in which a pack has it.
JOURNAL_FILES: Tuple[str, ...] = (INDEX, *JOURNAL_STREAMS)

ARCHIVE = ".skyrl_magic"
ARCHIVED_RUNS = f"{ARCHIVE}/runs"
PACKS = f"{ARCHIVE}/packs"
CATALOGS = f"{ARCHIVE}/sessions"
#: In bytes; a multiple of a record's size.
SEGMENT_BYTES = 1 << 20
#: In units of :data:`SEGMENT_BYTES`.
LARGE_SEGMENT = 8
_SEGMENT = re.compile(r"([a-z]+)-([0-9]{12,})")


def segment_name(name: str, start: int) -> str:
    """The file of a journal's ``name`` that begins at byte ``start``."""
    return f"{name}-{start:012d}"


def parse_segment(file_name: str) -> Optional[Tuple[str, int]]:
    """What :func:`segment_name` made of name and start; None for another file."""
    match = _SEGMENT.fullmatch(file_name)
    return None if match is None or match[1] not in JOURNAL_FILES else (match[1], int(match[2]))


def index_records(data: Union[bytes, memoryview]) -> Iterator[Tuple[str, int, int]]:
    """Stream, start and end of each whole record; those of streams that this version does not know are left out."""
    whole = len(data) // INDEX_RECORD.size * INDEX_RECORD.size
    for number, length, offset in INDEX_RECORD.iter_unpack(data[:whole]):
        if number < len(JOURNAL_STREAMS):
            yield JOURNAL_STREAMS[number], offset, offset + length
