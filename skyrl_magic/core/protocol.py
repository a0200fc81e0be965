"""The frames of the control channel, defined once for the client and for the agent in the container.

A frame is ``body length (u32) | kind (u8) | meta length (u32) | meta (JSON, UTF-8) | payload (bytes)``, big-endian;
the body length counts everything after itself. The module does no I/O: :func:`encode` makes bytes,
:class:`FrameDecoder` takes them in any chunking. It is shipped to the container, so it is standard library only and
runs on Python 3.9.

A message is a frozen dataclass; its ``payload`` field, where it has one, travels as raw bytes and everything else
as JSON. Fields that a peer does not know are ignored and missing ones take their defaults, so a field can be added
without a new :data:`VERSION`; a changed meaning needs one.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib
from typing import Any, ClassVar, Dict, Iterable, Iterator, List, Optional, Tuple, Type, TypeVar, Union

VERSION = 1
#: Bound on one frame's body, in bytes. A larger length means a broken or foreign stream.
MAX_FRAME_BYTES = 64 * 1024 * 1024
#: Size in bytes in which file and journal contents are cut into frames.
CHUNK_BYTES = 256 * 1024

#: Below this size in bytes, compressing is not worth its while.
MIN_COMPRESSED_BYTES = 512

#: The two streams of a run, as they are named in frames and journals.
STDOUT = "stdout"
STDERR = "stderr"
STREAMS: Tuple[str, str] = (STDOUT, STDERR)
#: A third one that the runs of Python cells have: everything that they show besides text, as encoded
#: :class:`KernelMessage` frames one after the other.
OUTPUTS = "outputs"
JOURNAL_STREAMS: Tuple[str, str, str] = (*STREAMS, OUTPUTS)

#: In the line of the main process's own output that says why the session ends; the reason follows.
SESSION_ENDS = "the session ends: "

#: What runs a cell: a new bash, or the session's Python kernel.
SHELL = "shell"
PYTHON = "python"

#: How a watched stream is sent: what a cell can show (gaps allowed), every byte, or nothing.
SHOW = "show"
ALL = "all"
NONE = "none"

_LENGTH = struct.Struct(">I")
_HEAD = struct.Struct(">BI")


class ProtocolError(Exception):
    """The bytes on the channel are not frames of this protocol."""


_KINDS: Dict[int, "Type[Message]"] = {}

M = TypeVar("M", bound="Type[Message]")


def _kind(number: int) -> Any:
    def register(cls: M) -> M:
        if number in _KINDS:
            raise ValueError(f"frame kind {number} is taken by {_KINDS[number].__name__}")
        cls.KIND = number
        _KINDS[number] = cls
        return cls

    return register


@dataclasses.dataclass(frozen=True)
class Message:
    """Base of all frames. ``KIND`` is the number on the wire."""

    KIND: ClassVar[int] = -1


# --- client to agent ----------------------------------------------------------------------------------------------


@_kind(1)
@dataclasses.dataclass(frozen=True)
class Hello(Message):
    """First frame of a client; answered by :class:`Welcome`."""

    version: int = VERSION
    client_id: str = ""


@_kind(2)
@dataclasses.dataclass(frozen=True)
class Ping(Message):
    """Keeps the client attached (every 5 s; ``attach`` leaves after 30 s without one). Answered by :class:`Pong`."""

    number: int = 0


@_kind(3)
@dataclasses.dataclass(frozen=True)
class StartRun(Message):
    """Start ``payload`` (a bash script or a Python cell, unchanged) as run ``run_id``.

    Idempotent: a ``run_id`` that exists is not started again, so it can be re-sent after a cut channel.
    Answered by :class:`Done` or :class:`Failed`; the run is watched separately.
    """

    request: int = 0
    run_id: str = ""
    workdir: str = ""
    """Absolute, or relative to the checkout's working directory; empty for that directory itself."""
    env: Dict[str, str] = dataclasses.field(default_factory=dict)
    errexit: bool = False
    generation: int = -1
    """The checkout that the run is meant for: with another one it is refused as ``stale``; -1 takes any."""
    kind: str = SHELL
    """``shell`` or ``python``; the rest concerns Python alone."""
    uv: str = ""
    """Options of ``uv run`` for a kernel in the project's environment; empty for the one that runs the cluster."""
    allow_stdin: bool = False
    """The client can answer ``input()``."""
    payload: bytes = b""


@_kind(4)
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


@_kind(5)
@dataclasses.dataclass(frozen=True)
class UnwatchRun(Message):
    """Stop sending this run's output; the run goes on."""

    run_id: str = ""


@_kind(6)
@dataclasses.dataclass(frozen=True)
class SignalRun(Message):
    """Send signal number ``signal`` to every process of the run. Answered by :class:`Done` or :class:`Failed`."""

    request: int = 0
    run_id: str = ""
    signal: int = 0


@_kind(7)
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


@_kind(8)
@dataclasses.dataclass(frozen=True)
class ListRuns(Message):
    """Answered by :class:`RunList`."""

    request: int = 0


@_kind(9)
@dataclasses.dataclass(frozen=True)
class GetCheckout(Message):
    """Ask what the container has of the checkout. Answered by :class:`CheckoutState`."""

    request: int = 0
    generation: int = -1
    """The generation the client already knows: if it is still the current one, the answer has no payload."""


@_kind(10)
@dataclasses.dataclass(frozen=True)
class PutFile(Message):
    """One part of a file of the checkout. It is written beside its target and renamed when ``last`` has come."""

    path: str = ""
    mode: int = 0o644
    offset: int = 0
    last: bool = True
    payload: bytes = b""


@_kind(11)
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


@_kind(12)
@dataclasses.dataclass(frozen=True)
class Configure(Message):
    """Change a live session. ``None`` leaves a value as it is. Answered by :class:`Done`."""

    request: int = 0
    idle_timeout_s: Optional[float] = None


@_kind(13)
@dataclasses.dataclass(frozen=True)
class GetStatus(Message):
    """Answered by :class:`Status`."""

    request: int = 0


@_kind(14)
@dataclasses.dataclass(frozen=True)
class StopSession(Message):
    """End the container: runs are stopped, journals flushed, the volume committed. Answered by :class:`Done` first."""

    request: int = 0


@_kind(15)
@dataclasses.dataclass(frozen=True)
class InputReply(Message):
    """The answer to a Python run's ``input_request``, which stands among its outputs; the first one counts."""

    run_id: str = ""
    value: str = ""


@_kind(16)
@dataclasses.dataclass(frozen=True)
class KernelRequest(Message):
    """A Jupyter request to the session's Python kernel, on its shell channel. Answered by :class:`KernelReply`.

    The kernel answers when it is not busy. There must be one: without it the answer is :class:`Failed` (``no_kernel``).
    """

    request: int = 0
    msg_type: str = ""
    content: Dict[str, Any] = dataclasses.field(default_factory=dict)


@_kind(17)
@dataclasses.dataclass(frozen=True)
class RestartKernel(Message):
    """End the Python kernel and start another one. Answered by :class:`Done` when that is up, or :class:`Failed`."""

    request: int = 0
    uv: str = ""
    """As in :class:`StartRun`."""
    keep: bool = False
    """A kernel that runs stays; one is started only where there is none."""


@_kind(18)
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


@_kind(19)
@dataclasses.dataclass(frozen=True)
class ReadBlob(Message):
    """Fetch a file that this client has put and the kernel has filled. Answered as :class:`ReadJournal` is."""

    request: int = 0
    name: str = ""


@_kind(20)
@dataclasses.dataclass(frozen=True)
class DropBlob(Message):
    """Remove a file that this client has put; has no answer."""

    name: str = ""


# --- agent to client ----------------------------------------------------------------------------------------------


@_kind(64)
@dataclasses.dataclass(frozen=True)
class Welcome(Message):
    """Answer to :class:`Hello`."""

    version: int = VERSION
    agent_hash: str = ""
    """SHA-256 of the agent's zipapp: tells a newer client that the warm session runs an older agent."""
    session: str = ""
    workdir: str = ""


@_kind(65)
@dataclasses.dataclass(frozen=True)
class Pong(Message):
    """Answer to :class:`Ping` with its number."""

    number: int = 0


@_kind(66)
@dataclasses.dataclass(frozen=True)
class Done(Message):
    """The request was carried out."""

    request: int = 0


@_kind(67)
@dataclasses.dataclass(frozen=True)
class Failed(Message):
    """The request was refused. ``code`` is for programs (``stale``, ``unknown_run``, …), ``message`` for people."""

    request: int = 0
    code: str = ""
    message: str = ""


@_kind(68)
@dataclasses.dataclass(frozen=True)
class RunWaiting(Message):
    """The run is accepted and waits (``reason`` is ``ray``)."""

    run_id: str = ""
    reason: str = ""


@_kind(69)
@dataclasses.dataclass(frozen=True)
class RunStarted(Message):
    """The run's process is alive."""

    run_id: str = ""
    started_at: float = 0.0
    """Unix time in seconds, by the container's clock."""


@_kind(70)
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


@_kind(71)
@dataclasses.dataclass(frozen=True)
class Gap(Message):
    """Bytes ``[start, end)`` of the stream were left out of the display; they are in the journal."""

    run_id: str = ""
    stream: str = STDOUT
    start: int = 0
    end: int = 0
    redrawn: bool = False
    """A terminal shows the same without them: what they wrote was written over since."""


@_kind(72)
@dataclasses.dataclass(frozen=True)
class RunEnded(Message):
    """The run is over, all its output was sent, and the volume is committed.

    ``exit_code`` is bash's (128 + n where a signal n ended it). ``commit_error`` is empty, or one line. ``reason`` says
    why the session ended the run, and is empty for a run that ended by itself or by a client's signal.
    ``journal_error`` says what of its output could not be kept, and why.
    """

    run_id: str = ""
    exit_code: int = 0
    signal: int = 0
    started_at: float = 0.0
    duration_s: float = 0.0
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    commit_error: str = ""
    reason: str = ""
    journal_error: str = ""


@_kind(73)
@dataclasses.dataclass(frozen=True)
class JournalData(Message):
    """A part of a stream, in answer to :class:`ReadJournal`."""

    request: int = 0
    offset: int = 0
    raw_bytes: int = 0
    compressed: bool = False
    last: bool = False
    payload: bytes = b""


@_kind(74)
@dataclasses.dataclass(frozen=True)
class RunList(Message):
    """Answer to :class:`ListRuns`, oldest first; an item has the fields of :class:`RunSummary`."""

    request: int = 0
    runs: List[Dict[str, Any]] = dataclasses.field(default_factory=list)


@_kind(75)
@dataclasses.dataclass(frozen=True)
class CheckoutState(Message):
    """What the container has of the checkout, by the last word of a client.

    ``payload``: zlib-compressed JSON ``{path: entry}``; an entry is ``["f", mode, sha256 hex, size_bytes]``,
    ``["l", target]`` or ``["d", mode]`` (a directory that would otherwise be empty). What runs wrote is not in it.
    """

    request: int = 0
    generation: int = 0
    payload: bytes = b""


@_kind(76)
@dataclasses.dataclass(frozen=True)
class Status(Message):
    """A session's state. ``ray`` is ``off``, ``starting``, ``ready`` or ``failed``."""

    request: int = 0
    ray: str = "off"
    ray_seconds: float = 0.0
    """How long Ray took to start, or has been starting."""
    ray_detail: str = ""
    """The last line that the start of Ray printed, when it failed."""
    boot_seconds: float = 0.0
    active_runs: List[str] = dataclasses.field(default_factory=list)
    idle_s: float = 0.0
    idle_timeout_s: float = 0.0
    clients: int = 0
    kernel: str = "off"
    """The Python kernel: ``off``, ``starting`` or ``ready``."""


@_kind(77)
@dataclasses.dataclass(frozen=True)
class KernelReply(Message):
    """The kernel's answer to :class:`KernelRequest`."""

    request: int = 0
    content: Dict[str, Any] = dataclasses.field(default_factory=dict)


@_kind(78)
@dataclasses.dataclass(frozen=True)
class KernelMessage(Message):
    """A Jupyter message of the kernel (what a cell shows, a comm's message) or, the other way, to one of its comms.

    Among a run's outputs it is a record of the journal. By itself it belongs to no run that goes on: a widget's answer,
    or what a thread wrote after its cell had ended.
    """

    run_id: str = ""
    """The run that it comes from. To a comm: a name that the client makes up, which the answers carry."""
    client: int = 0
    """Between supervisor and relay: who is meant; 0 for everybody."""
    msg_type: str = ""
    content: Dict[str, Any] = dataclasses.field(default_factory=dict)
    metadata: Dict[str, Any] = dataclasses.field(default_factory=dict)
    buffers: List[int] = dataclasses.field(default_factory=list)
    """The sizes in bytes of the binary buffers, which ``payload`` holds one after the other."""
    payload: bytes = b""


# --- between the supervisor and the kernel's relay -------------------------------------------------------------------


@_kind(100)
@dataclasses.dataclass(frozen=True)
class ExecuteRun(Message):
    """Execute the cell in the run's folder, after those that came before."""

    run_id: str = ""
    folder: str = ""
    workdir: str = ""
    env: Dict[str, str] = dataclasses.field(default_factory=dict)
    allow_stdin: bool = False
    note: str = ""
    """A line that the cell's stderr begins with; empty for none."""


@_kind(101)
@dataclasses.dataclass(frozen=True)
class ExecuteStarted(Message):
    """The kernel has the run's cell; its folder can be watched."""

    run_id: str = ""


@_kind(102)
@dataclasses.dataclass(frozen=True)
class ExecuteEnded(Message):
    """The run is over and its journal is complete. The other fields are those of :class:`RunEnded`."""

    run_id: str = ""
    exit_code: int = 0
    signal: int = 0
    duration_s: float = 0.0
    journal_error: str = ""


@_kind(103)
@dataclasses.dataclass(frozen=True)
class RelayReady(Message):
    """The relay runs a kernel."""


@_kind(104)
@dataclasses.dataclass(frozen=True)
class RelayFailed(Message):
    """There can be no kernel, or it has ended; ``detail`` is one line that says why. The relay ends."""

    detail: str = ""


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """One run in :class:`RunList`. ``state`` is ``waiting``, ``running`` or ``ended``."""

    run_id: str
    state: str
    command: str
    """The cell's first line, at most 200 characters."""
    started_at: float = 0.0
    duration_s: float = 0.0
    exit_code: Optional[int] = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    kind: str = SHELL
    outputs_bytes: int = 0


# --- bytes ---------------------------------------------------------------------------------------------------------


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
    cls = _KINDS.get(kind)
    if cls is None:
        return None
    try:
        meta = json.loads(bytes(body[_HEAD.size : end]))
    except ValueError as error:
        raise ProtocolError(f"the meta of a {cls.__name__} frame is not JSON: {error}") from None
    if not isinstance(meta, dict):
        raise ProtocolError(f"the meta of a {cls.__name__} frame is not an object")
    known = {f.name for f in dataclasses.fields(cls)}
    fields = {name: value for name, value in meta.items() if name in known}
    if "payload" in known:
        fields["payload"] = bytes(body[end:])
    return cls(**fields)


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
    if not compressed:
        data = payload
    elif raw_bytes > MAX_FRAME_BYTES:
        raise ProtocolError(f"a payload says that it holds {raw_bytes} bytes")
    else:
        try:
            data = zlib.decompressobj().decompress(payload, raw_bytes + 1)  # one more tells that there is more
        except zlib.error as error:
            raise ProtocolError(f"a payload cannot be inflated: {error}") from None
    if len(data) != raw_bytes:
        raise ProtocolError(f"a payload does not hold the {raw_bytes} bytes that it says")
    return data


def pack_buffers(buffers: Iterable[Union[bytes, memoryview]]) -> Tuple[List[int], bytes]:
    """The ``buffers`` and ``payload`` of a :class:`KernelMessage`."""
    parts = [bytes(buffer) for buffer in buffers]
    return [len(part) for part in parts], b"".join(parts)


def unpack_buffers(message: KernelMessage) -> List[bytes]:
    """The binary buffers of a message. Raises :class:`ProtocolError` where the sizes are not those of its payload."""
    sizes: Any = message.buffers  # they came from a peer
    if not isinstance(sizes, list) or any(not isinstance(size, int) or size < 0 for size in sizes):
        raise ProtocolError("a message's buffers have no sizes")
    if sum(message.buffers) != len(message.payload):
        raise ProtocolError("a message's buffers are not those that it says")
    found, start = [], 0
    for size in message.buffers:
        found.append(message.payload[start : start + size])
        start += size
    return found


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
