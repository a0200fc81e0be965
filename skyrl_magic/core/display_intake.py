"""From frames to the new bytes of each stream: nothing twice, and nothing missing without a word."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from skyrl_magic.core.protocol import JOURNAL_STREAMS, Gap, Output, ProtocolError


class Intake:
    """How far each stream of a run came, across channels that broke and were opened again.

    Args:
        start: the offsets to begin at, by stream; what is before them is not missed.
    """

    def __init__(self, start: Mapping[str, int] | None = None) -> None:
        self._offsets = {**dict.fromkeys(JOURNAL_STREAMS, 0), **(start or {})}

    @property
    def offsets(self) -> dict[str, int]:
        """For each stream, the offset of the next byte: where a watch of the run goes on."""
        return dict(self._offsets)

    def take(self, event: Output | Gap) -> tuple[int, bytes]:
        """How many bytes are missing before the frame's new bytes, and those bytes.

        Bytes that came before are skipped; bytes that never came count as missing, as those of a gap do, but for one
        of redrawn text: nobody misses that.

        Raises:
            ProtocolError: the payload is damaged, or the stream is unknown.
        """
        reached = self._offsets.get(event.stream)
        if reached is None:
            raise ProtocolError(f"a frame of stream {event.stream!r} has no place in a cell")
        if isinstance(event, Gap):
            self._offsets[event.stream] = max(reached, event.end)
            missed_to = event.start if event.redrawn else event.end
            return max(0, missed_to - reached), b""
        end = event.offset + event.raw_bytes
        if end <= reached:
            return 0, b""
        data = _payload(event)[max(0, reached - event.offset) :]
        self._offsets[event.stream] = end
        return max(0, event.offset - reached), data


def _payload(event: Output) -> bytes:
    data = event.payload
    if event.compressed:
        try:
            data = zlib.decompressobj().decompress(data, event.raw_bytes + 1)
        except zlib.error as error:
            raise ProtocolError(f"an Output frame's payload is damaged: {error}") from None
    if len(data) != event.raw_bytes:
        raise ProtocolError(f"an Output frame of {event.raw_bytes} bytes holds another number of them")
    return data
