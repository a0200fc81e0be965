"""Files that travel to a session: variables for its kernel, and what a run reads as its stdin."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import SessionError
from skyrl_magic.core.variables import Buffer
from skyrl_magic.service.channel import Channel

#: Size in bytes in which a file travels to the session: with its head what a backend sends at one go (1 MiB).
_PART_BYTES = 1024 * 1024 - 4096


@contextlib.contextmanager
def blob(channel: Channel) -> Iterator[str]:
    """The name of a file in the session, which is gone afterwards."""
    name = f"v{secrets.token_hex(8)}"
    try:
        yield name
    finally:
        with contextlib.suppress(SessionError):  # with the channel the file goes too
            channel.send(protocol.DropBlob(name))


def put(channel: Channel, name: str, pieces: Sequence[Buffer]) -> None:
    """Write the file, and wait until it is there. Raises SessionError."""
    at = 0
    for part in _parts(pieces):
        channel.send(protocol.PutBlob(0, name, at, last=False, payload=part))
        at += len(part)
    channel.request(lambda number: protocol.PutBlob(number, name, at), protocol.Done)


def _parts(pieces: Sequence[Buffer]) -> Iterator[bytes]:
    """The bytes of all pieces, cut anew: an array may be large, or one of ten thousand small ones."""
    part = bytearray()
    for piece in pieces:
        view = memoryview(piece).cast("B")
        while view:
            taken = view[: _PART_BYTES - len(part)]
            part += taken
            view = view[len(taken) :]
            if len(part) == _PART_BYTES:
                yield bytes(part)
                part.clear()
    if part:
        yield bytes(part)
