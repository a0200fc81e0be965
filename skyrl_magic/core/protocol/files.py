"""Files that travel: the checkout's, and those with variables for the kernel to read or fill."""

from __future__ import annotations

import dataclasses
import json
import zlib
from typing import Any, List

from skyrl_magic.core.protocol.codec import MAX_FRAME_BYTES, Message, ProtocolError, frame


@frame(9)
@dataclasses.dataclass(frozen=True)
class GetCheckout(Message):
    """Ask what the container has of the checkout. Answered by :class:`CheckoutState`."""

    request: int = 0
    generation: int = -1
    """The generation the client already knows: if it is still the current one, the answer has no payload."""


@frame(75)
@dataclasses.dataclass(frozen=True)
class CheckoutState(Message):
    """What the container has of the checkout, by the last word of a client.

    ``payload``: zlib-compressed JSON ``{path: entry}``; an entry is ``["f", mode, sha256 hex, size_bytes]``,
    ``["l", target]`` or ``["d", mode]`` (a directory that would otherwise be empty). What runs wrote is not in it.
    """

    request: int = 0
    generation: int = 0
    payload: bytes = b""


@frame(10)
@dataclasses.dataclass(frozen=True)
class PutFile(Message):
    """One part of a file of the checkout. It is written beside its target and renamed when ``last`` has come."""

    path: str = ""
    mode: int = 0o644
    offset: int = 0
    last: bool = True
    payload: bytes = b""


@frame(11)
@dataclasses.dataclass(frozen=True)
class ApplyCheckout(Message):
    """Make the change whose files were put before it, and record it as what the client has now.

    ``payload`` is zlib-compressed JSON: ``{"set": {path: entry}, "remove": [path]}`` with entries as in
    :class:`CheckoutState`. Directories and symlinks are made, modes set, removed paths deleted (a file that a run
    changed since is deleted too: the user deleted it). Fails with code ``stale`` when ``generation`` is not the
    container's current one. Answered by :class:`CheckoutState` without payload (the new generation) or :class:`Failed`.
    """

    request: int = 0
    generation: int = 0
    payload: bytes = b""


@frame(18)
@dataclasses.dataclass(frozen=True)
class PutBlob(Message):
    """One part of a file for the kernel to read, or an empty one for it to fill, in the session's folder for such.

    ``name`` is a plain name that the client makes up. The parts come in order; the last one is answered by
    :class:`Done`, or by :class:`Failed` for whatever went wrong. The file goes with the client's channel.
    """

    request: int = 0
    name: str = ""
    offset: int = 0
    last: bool = True
    payload: bytes = b""


@frame(19)
@dataclasses.dataclass(frozen=True)
class ReadBlob(Message):
    """Fetch a file that this client has put and the kernel has filled. Answered as :class:`ReadJournal` is."""

    request: int = 0
    name: str = ""


@frame(20)
@dataclasses.dataclass(frozen=True)
class DropBlob(Message):
    """Remove a file that this client has put; has no answer."""

    name: str = ""


@frame(30)
@dataclasses.dataclass(frozen=True)
class FindUnkept(Message):
    """Ask what the session has written that ends with its container. Answered by :class:`Unkept`."""

    request: int = 0


@frame(94)
@dataclasses.dataclass(frozen=True)
class Unkept(Message):
    """Answer to :class:`FindUnkept`: folders and files outside the volume, the largest first, ``[path, bytes]``."""

    request: int = 0
    found: List[List[Any]] = dataclasses.field(default_factory=list)


def pack_json(value: Any) -> bytes:
    """``value`` as zlib-compressed JSON, as in :class:`ApplyCheckout` and :class:`CheckoutState`."""
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode("utf-8", "surrogatepass"), 1)


def unpack_json(payload: bytes) -> Any:
    """The value in ``payload``. Raises :class:`ProtocolError` when it is none, or is over :data:`MAX_FRAME_BYTES`."""
    try:
        inflate = zlib.decompressobj()
        text = inflate.decompress(payload, MAX_FRAME_BYTES)
        if inflate.unconsumed_tail:
            raise ProtocolError("a JSON payload is too large")
        return json.loads(text)
    except (zlib.error, ValueError) as error:
        raise ProtocolError(f"a payload is not compressed JSON: {error}") from None
