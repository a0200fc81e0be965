"""A run's output: watched while it is written, and read from its journal."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any, Tuple

from skyrl_magic.core.protocol.codec import MAX_FRAME_BYTES, Message, ProtocolError, frame

#: The two streams of a run, as they are named in frames and journals.
STDOUT = "stdout"
STDERR = "stderr"
STREAMS: Tuple[str, str] = (STDOUT, STDERR)
#: A third one that the runs of Python cells have: everything that they show besides text, as encoded
#: :class:`KernelMessage` frames one after the other.
OUTPUTS = "outputs"
JOURNAL_STREAMS: Tuple[str, str, str] = (*STREAMS, OUTPUTS)

#: How a watched stream is sent: what a cell can show (gaps allowed), every byte, or nothing.
SHOW = "show"
ALL = "all"
NONE = "none"

#: Below this size in bytes, compressing is not worth its while.
MIN_COMPRESSED_BYTES = 512


@frame(4)
@dataclasses.dataclass(frozen=True)
class WatchRun(Message):
    """Send this run's output from the given offsets on, as :class:`Output`, :class:`Gap` and :class:`RunEnded`.

    ``stdout``, ``stderr`` and ``outputs`` are each one of ``show``, ``all``, ``none``. A second watch of the same run
    replaces the first. ``shown_bytes`` is what the last :class:`Output` said, so that a re-opened channel goes on with
    the same budget. ``stdout_end`` and ``stderr_end`` are where to stop (-1: where the run does).
    """

    run_id: str = ""
    stdout_offset: int = 0
    stderr_offset: int = 0
    stdout: str = SHOW
    stderr: str = SHOW
    shown_bytes: int = 0
    outputs: str = NONE
    outputs_offset: int = 0
    stdout_end: int = -1
    stderr_end: int = -1


@frame(5)
@dataclasses.dataclass(frozen=True)
class UnwatchRun(Message):
    """Stop sending this run's output; the run goes on."""

    run_id: str = ""


@frame(70)
@dataclasses.dataclass(frozen=True)
class Output(Message):
    """Bytes ``[offset, offset + raw_bytes)`` of a run's stream. Frames arrive in the order the run wrote them."""

    run_id: str = ""
    stream: str = STDOUT
    offset: int = 0
    raw_bytes: int = 0
    compressed: bool = False
    """The payload is zlib-compressed."""
    payload: bytes = b""
    shown_bytes: int = 0
    """What of the head's budget is used up by now, in bytes, in a watch of :data:`SHOW`."""


@frame(71)
@dataclasses.dataclass(frozen=True)
class Gap(Message):
    """Bytes ``[start, end)`` of the stream were left out of the display; they are in the journal."""

    run_id: str = ""
    stream: str = STDOUT
    start: int = 0
    end: int = 0
    redrawn: bool = False
    """A terminal shows the same without them: what they wrote was written over since."""


@frame(7)
@dataclasses.dataclass(frozen=True)
class ReadJournal(Message):
    """Fetch bytes ``[start, end)`` of a run's stream; ``end`` -1 means as much as there is now.

    Answered by :class:`JournalData` frames, the last with ``last=True``, or :class:`Failed`.
    """

    request: int = 0
    run_id: str = ""
    stream: str = STDOUT
    start: int = 0
    end: int = -1


@frame(73)
@dataclasses.dataclass(frozen=True)
class JournalData(Message):
    """A part of a stream, in answer to :class:`ReadJournal`."""

    request: int = 0
    offset: int = 0
    raw_bytes: int = 0
    compressed: bool = False
    last: bool = False
    payload: bytes = b""


def pack_payload(data: bytes) -> Tuple[bool, bytes]:
    """``(compressed, payload)``: zlib level 1 where that makes it smaller by a tenth at least."""
    if len(data) >= MIN_COMPRESSED_BYTES:
        packed = zlib.compress(data, 1)
        if len(packed) < 0.9 * len(data):
            return True, packed
    return False, data


def raw_payload(payload: bytes, *, compressed: bool, raw_bytes: int) -> bytes:
    """The ``raw_bytes`` that a payload carries. Raises :class:`ProtocolError` when it carries another number.

    What comes from a container is untrusted: no more than ``raw_bytes`` are ever inflated.
    """
    claimed: Any = raw_bytes  # it came from a peer
    if not compressed:
        data = payload
    elif not isinstance(claimed, int) or not 0 <= claimed <= MAX_FRAME_BYTES:
        raise ProtocolError(f"a payload says that it holds {raw_bytes} bytes")
    else:
        try:
            data = zlib.decompressobj().decompress(payload, raw_bytes + 1)  # one more tells that there is more
        except zlib.error as error:
            raise ProtocolError(f"a payload cannot be inflated: {error}") from None
    if len(data) != raw_bytes:
        raise ProtocolError(f"a payload does not hold the {raw_bytes} bytes that it says")
    return data
