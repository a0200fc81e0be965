"""What a client hears of one run: its frames in order, and how far they have come."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator
from dataclasses import dataclass

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import SessionError, SessionLost


@dataclass(frozen=True)
class Lost:
    """In a watch's queue: the container is gone."""

    error: SessionLost


@dataclass(frozen=True)
class Pressed:
    """In a watch's queue: the user pressed Stop."""


@dataclass(frozen=True)
class Leave:
    """In a watch's queue: who follows the run is to stop following it."""


@dataclass(frozen=True)
class Signalled:
    """In a watch's queue: what came of a signal to the run. ``attempt`` counts the signals that were sent."""

    attempt: int
    delivered: bool


@dataclass(frozen=True)
class Trouble:
    """In a watch's queue: the connection does not carry, or (not ``broken``) carries again."""

    broken: bool


WatchEvent = protocol.Message | Lost | Pressed | Leave | Signalled | Trouble


class Watch:
    """The frames of one watched run, in order, and how far they have come."""

    def __init__(self, request: protocol.WatchRun) -> None:
        self.run_id = request.run_id
        self.events: queue.SimpleQueue[WatchEvent] = queue.SimpleQueue()
        self._request = request
        self._offsets = {
            protocol.STDOUT: request.stdout_offset,
            protocol.STDERR: request.stderr_offset,
            protocol.OUTPUTS: request.outputs_offset,
        }
        self._shown_bytes = request.shown_bytes
        self.ended = False
        self.seen: protocol.Seen | None = None
        """How far the cell has shown it; the channel tells the agent with its next ping."""

    def put(self, message: protocol.Message) -> None:
        """Take a frame of this run from the channel. Raises KeyError for a stream that no run has."""
        if isinstance(message, (protocol.Output, protocol.Gap)) and message.stream not in self._offsets:
            raise KeyError(message.stream)
        if isinstance(message, protocol.Output):
            self._offsets[message.stream] = message.offset + message.raw_bytes
            self._shown_bytes = message.shown_bytes or self._shown_bytes
        elif isinstance(message, protocol.Gap):
            self._offsets[message.stream] = message.end
        elif isinstance(message, protocol.RunEnded):
            self.ended = True
        self.events.put(message)

    def resume(self) -> protocol.WatchRun:
        """The request that goes on where this watch is."""
        return protocol.WatchRun(
            run_id=self.run_id,
            stdout_offset=self._offsets[protocol.STDOUT],
            stderr_offset=self._offsets[protocol.STDERR],
            stdout=self._request.stdout,
            stderr=self._request.stderr,
            shown_bytes=self._shown_bytes,
            outputs=self._request.outputs,
            outputs_offset=self._offsets[protocol.OUTPUTS],
            stdout_end=self._request.stdout_end,
            stderr_end=self._request.stderr_end,
        )


def payload_bytes(message: protocol.Output | protocol.JournalData) -> bytes:
    """The bytes that a frame carries, decompressed where they are compressed.

    Raises:
        SessionError: it does not carry what it says.
    """
    with readable():
        return protocol.raw_payload(message.payload, compressed=message.compressed, raw_bytes=message.raw_bytes)


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """What a container sends is untrusted: raises SessionError where it is not what it should be."""
    try:
        yield
    except protocol.ProtocolError as error:
        raise SessionError(f"the session sent output that cannot be read: {error}") from None
