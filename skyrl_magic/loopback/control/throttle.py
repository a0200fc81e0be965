"""How often a client may call, and how it is told to come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import Message
from grpclib import GRPCError, Status
from grpclib.encoding.base import StatusDetailsCodecBase
from modal_proto import api_pb2

#: Sandboxes that a workspace may create in a second, and at once after a rest.
CREATIONS_PER_S = 5.0
CREATIONS_BURST = 150


class DetailsCodec(StatusDetailsCodecBase):
    """Sends the details of an error as Modal's client reads them."""

    def encode(self, status: Status, message: str | None, details: Any) -> bytes:
        """The bytes of an error's details, which are messages."""
        found: Sequence[Message] = details or ()
        wrapped = api_pb2.RPCStatus(code=status.value, message=message or "")
        for detail in found:
            wrapped.details.add().Pack(detail)
        return wrapped.SerializeToString()

    def decode(self, status: Status, message: str | None, data: bytes) -> Any:
        """Nobody sends details to a server."""
        raise NotImplementedError


def come_back(message: str, after_s: float) -> GRPCError:
    """A refusal after which the client waits and asks again, for as long as it is refused."""
    return GRPCError(Status.RESOURCE_EXHAUSTED, message, [api_pb2.RPCRetryPolicy(retry_after_secs=after_s)])


class CreationRate:
    """Counts creations: so many a second, and a burst of them after a rest.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = float(CREATIONS_BURST)
        self._at_s = clock()

    def take(self) -> None:
        """Count one more.

        Raises:
            GRPCError: RESOURCE_EXHAUSTED, there were too many.
        """
        now_s = self._clock()
        self._left = min(float(CREATIONS_BURST), self._left + (now_s - self._at_s) * CREATIONS_PER_S)
        self._at_s = now_s
        if self._left < 1:
            wait_s = (1 - self._left) / CREATIONS_PER_S
            raise come_back(f"Sandbox creation rate limit ({CREATIONS_PER_S:.0f}/s) exceeded", wait_s)
        self._left -= 1
