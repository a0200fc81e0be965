"""What every frame is: its bytes, and the register of the kinds that there are.

A frame is ``body length (u32) | kind (u8) | meta length (u32) | meta (JSON, UTF-8) | payload (bytes)``, big-endian;
the body length counts everything after itself. A message is a frozen dataclass; its ``payload`` field, where it has
one, travels as raw bytes and everything else as JSON. Fields that a peer does not know are ignored and missing ones
take their defaults, so a field can be added without a new :data:`VERSION`; a changed meaning needs one.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import struct
from typing import Any, ClassVar, Dict, Iterator, Optional, Type, TypeVar, Union

VERSION = 1
#: Bound on one frame's body, in bytes. A larger length means a broken or foreign stream.
MAX_FRAME_BYTES = 64 * 1024 * 1024
#: Size in bytes in which file and journal contents are cut into frames.
CHUNK_BYTES = 256 * 1024

#: From this number on frames are the agent's.
FROM_AGENT = 64
#: No number of a frame is as large as this; JSON's may have any size.
_MAX_NUMBER = 1 << 64

#: Bounds on what a frame of a container may take of its reader's memory and stack, once it is parsed: how deep its JSON
#: is, how many lists and objects, and how many values it has. A chart of a million points is below them.
MAX_DEPTH = 200
_MAX_NESTS = 1_000_000
_MAX_VALUES = 4_000_000

_LENGTH = struct.Struct(">I")
_HEAD = struct.Struct(">BI")
#: JSON's texts, and what opens and closes lists and objects.
_MARKS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]')


class ProtocolError(Exception):
    """The bytes on the channel are not frames of this protocol."""


#: The kinds of frames by their numbers.
KINDS: Dict[int, "Type[Message]"] = {}

M = TypeVar("M", bound="Type[Message]")


def frame(number: int) -> Any:
    """Register a message class under its number on the wire.

    Raises:
        ValueError: the number is taken.
    """

    def register(cls: M) -> M:
        if number in KINDS:
            raise ValueError(f"frame kind {number} is taken by {KINDS[number].__name__}")
        cls.KIND = number
        KINDS[number] = cls
        return cls

    return register


@dataclasses.dataclass(frozen=True)
class Message:
    """Base of all frames. ``KIND`` is the number on the wire."""

    KIND: ClassVar[int] = -1


def encode(message: Message) -> bytes:
    """One frame. Raises :class:`ProtocolError` when the body is over :data:`MAX_FRAME_BYTES`."""
    fields = {f.name: getattr(message, f.name) for f in dataclasses.fields(message)}
    payload: bytes = fields.pop("payload", b"")
    meta = json.dumps(fields, separators=(",", ":")).encode("utf-8", "surrogatepass")
    length = _HEAD.size + len(meta) + len(payload)
    if length > MAX_FRAME_BYTES:
        raise ProtocolError(f"a {type(message).__name__} frame of {length} bytes is over {MAX_FRAME_BYTES}")
    return b"".join((_LENGTH.pack(length), _HEAD.pack(message.KIND, len(meta)), meta, payload))


def decode_body(body: Union[bytes, memoryview]) -> Optional[Message]:
    """The message in a frame's body, or None for a kind that this version does not know."""
    if len(body) < _HEAD.size:
        raise ProtocolError("a frame is shorter than its head")
    kind, meta_bytes = _HEAD.unpack_from(body)
    end = _HEAD.size + meta_bytes
    if end > len(body):
        raise ProtocolError("a frame's meta is longer than the frame")
    cls = KINDS.get(kind)
    if cls is None:
        return None
    text = bytes(body[_HEAD.size : end])
    if kind >= FROM_AGENT:
        _check_size(text, cls.__name__)
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the meta of a {cls.__name__} frame is not JSON: {error}") from None
    if not isinstance(meta, dict):
        raise ProtocolError(f"the meta of a {cls.__name__} frame is not an object")
    known = {f.name: f.default for f in dataclasses.fields(cls)}
    fields = {name: value for name, value in meta.items() if name in known}
    # What a client sends is for the agent to refuse, by an answer: its channel goes on.
    for name, value in fields.items() if kind >= FROM_AGENT else ():
        if not can_be(value, known[name]):
            raise ProtocolError(f"{name} of a {cls.__name__} frame cannot be {value!r:.40}")
    if "payload" in known:
        fields["payload"] = bytes(body[end:])
    return cls(**fields)


def _check_size(text: bytes, name: str) -> None:
    """Refuse JSON that would take much more memory than its text, or a deep stack. Raises :class:`ProtocolError`.

    It counts characters, also those within texts, so that a common frame costs nothing.
    """
    nests = text.count(b"[") + text.count(b"{")
    if nests > _MAX_NESTS or text.count(b",") > _MAX_VALUES:
        raise ProtocolError(f"the meta of a {name} frame has too many values")
    if nests > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise ProtocolError(f"the meta of a {name} frame is more than {MAX_DEPTH} levels deep")


def _depth(text: bytes) -> int:
    """How many lists and objects lie in one another; what stands in texts does not count."""
    deepest = depth = 0
    for match in _MARKS.finditer(text):
        mark = match.group()
        if mark in {b"[", b"{"}:
            depth += 1
            deepest = max(deepest, depth)
        elif mark in {b"]", b"}"}:
            depth -= 1
    return deepest


def can_be(value: Any, default: Any) -> bool:
    """Whether a field with this default can have the value: a text, or a number that can be counted with.

    What lies in lists and objects is not looked at: a kernel's message may well have a NaN.
    """
    if isinstance(default, str):
        return isinstance(value, str)
    if isinstance(default, (int, float)):
        if isinstance(value, int):
            return abs(value) < _MAX_NUMBER
        return isinstance(value, float) and math.isfinite(value)
    return True


class FrameDecoder:
    """Turns a byte stream, in any chunking, into messages. Raises :class:`ProtocolError` on anything else."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: Union[bytes, bytearray, memoryview]) -> Iterator[Message]:
        """Take ``data`` and yield every message that is complete now; unknown kinds are skipped."""
        self._buffer += data
        start = 0
        try:
            while len(self._buffer) - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer, start)
                if not _HEAD.size <= length <= MAX_FRAME_BYTES:
                    raise ProtocolError(f"a frame of {length} bytes cannot be: this is not our channel")
                end = start + _LENGTH.size + length
                if len(self._buffer) < end:
                    break
                with memoryview(self._buffer) as whole, whole[start + _LENGTH.size : end] as body:
                    message = decode_body(body)
                start = end
                if message is not None:
                    yield message
        finally:
            del self._buffer[:start]

    @property
    def pending_bytes(self) -> int:
        """Bytes of an incomplete frame that wait for the rest."""
        return len(self._buffer)
