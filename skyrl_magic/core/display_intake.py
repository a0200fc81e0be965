"""From frames to the new bytes of each stream: nothing twice, and nothing missing without a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skyrl_magic.core.protocol import JOURNAL_STREAMS, MAX_FRAME_BYTES, Gap, Output, ProtocolError, raw_payload


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
            ProtocolError: the payload is damaged, the stream is unknown, or a field is not what it should be.
        """
        stream: Any = event.stream
        reached = self._offsets.get(stream) if isinstance(stream, str) else None
        if reached is None:
            raise ProtocolError(f"a frame of stream {stream!r} has no place in a cell")
        _check(event)
        if isinstance(event, Gap):
            self._offsets[event.stream] = max(reached, event.end)
            missed_to = event.start if event.redrawn else event.end
            return max(0, missed_to - reached), b""
        end = event.offset + event.raw_bytes
        if end <= reached:
            return 0, b""
        payload = raw_payload(event.payload, compressed=event.compressed, raw_bytes=event.raw_bytes)
        data = payload[max(0, reached - event.offset) :]
        self._offsets[event.stream] = end
        return max(0, event.offset - reached), data


def _check(event: Output | Gap) -> None:
    """What a container sends is untrusted; a size bounds what is inflated."""
    numbers: list[Any] = [event.start, event.end] if isinstance(event, Gap) else [event.offset, event.raw_bytes]
    whole = all(isinstance(number, int) and number >= 0 for number in numbers)
    if not whole or (isinstance(event, Output) and event.raw_bytes > MAX_FRAME_BYTES):
        raise ProtocolError(f"a frame's numbers cannot be: {numbers!r:.200}")
