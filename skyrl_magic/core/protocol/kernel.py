"""What is said of the Python kernel: by client and agent, and by the supervisor and the kernel's relay."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Iterable, List, Tuple, Union

from skyrl_magic.core.protocol.codec import Message, ProtocolError, frame


@frame(16)
@dataclasses.dataclass(frozen=True)
class KernelRequest(Message):
    """A Jupyter request to the session's Python kernel, on its shell channel. Answered by :class:`KernelReply`.

    The kernel answers when it is not busy. There must be one: without it the answer is :class:`Failed` (``no_kernel``).
    """

    request: int = 0
    msg_type: str = ""
    content: Dict[str, Any] = dataclasses.field(default_factory=dict)


@frame(77)
@dataclasses.dataclass(frozen=True)
class KernelReply(Message):
    """The kernel's answer to :class:`KernelRequest`."""

    request: int = 0
    content: Dict[str, Any] = dataclasses.field(default_factory=dict)


@frame(78)
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


@frame(15)
@dataclasses.dataclass(frozen=True)
class InputReply(Message):
    """The answer to a Python run's ``input_request``, which stands among its outputs; the first one counts."""

    run_id: str = ""
    value: str = ""


@frame(17)
@dataclasses.dataclass(frozen=True)
class RestartKernel(Message):
    """End the Python kernel and start another one. Answered by :class:`Done` when that is up, or :class:`Failed`."""

    request: int = 0
    uv: str = ""
    """As in :class:`StartRun`."""
    keep: bool = False
    """A kernel that runs stays; one is started only where there is none."""


@frame(100)
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


@frame(101)
@dataclasses.dataclass(frozen=True)
class ExecuteStarted(Message):
    """The kernel has the run's cell; its folder can be watched."""

    run_id: str = ""


@frame(102)
@dataclasses.dataclass(frozen=True)
class ExecuteEnded(Message):
    """The run is over and its journal is complete. The other fields are those of :class:`RunEnded`."""

    run_id: str = ""
    exit_code: int = 0
    signal: int = 0
    duration_s: float = 0.0
    journal_error: str = ""


@frame(107)
@dataclasses.dataclass(frozen=True)
class EndKernel(Message):
    """End the kernel in an orderly way: what it executes is interrupted, and then it shuts down as Jupyter's do.

    So handlers of ``KeyboardInterrupt`` and of ``atexit`` run, threads end and temporary files go.
    """

    reason: str = ""
    grace_s: float = 0.0
    """How long the cell may take from KeyboardInterrupt to its end; the kernel is killed then."""
    exit_s: float = 0.0
    """How long the kernel may take to shut down after that."""


@frame(103)
@dataclasses.dataclass(frozen=True)
class RelayReady(Message):
    """The relay runs a kernel."""


@frame(106)
@dataclasses.dataclass(frozen=True)
class KernelBusy(Message):
    """The kernel works, or has stopped to, on something that is no run's and no request's: a widget's callback."""

    busy: bool = False


@frame(104)
@dataclasses.dataclass(frozen=True)
class RelayFailed(Message):
    """There can be no kernel, or it has ended; ``detail`` is one line that says why. The relay ends."""

    detail: str = ""


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
