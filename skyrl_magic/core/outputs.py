"""What a Python run shows besides text: its ``outputs`` stream, message by message."""

from __future__ import annotations

from collections.abc import Iterator

from skyrl_magic.core.display_intake import Intake
from skyrl_magic.core.protocol import OUTPUTS, FrameDecoder, KernelMessage, Output, ProtocolError

#: Records of the relay's own, beside Jupyter's message types.
KERNEL_DIED = "kernel_died"
EXECUTE_REPLY = "execute_reply"
INPUT_REQUEST = "input_request"
ERROR = "error"


class OutputsDecoder:
    """Turns the frames of one run's ``outputs``, in any chunking, into its messages; each comes once.

    Args:
        start: the offset of the first message that is wanted.
    """

    def __init__(self, start: int = 0) -> None:
        self._intake = Intake({OUTPUTS: start})
        self._decoder = FrameDecoder()

    @property
    def offset(self) -> int:
        """Where the next message begins: where another decoder can go on."""
        return self._intake.offsets[OUTPUTS] - self._decoder.pending_bytes

    def feed(self, event: Output) -> Iterator[KernelMessage]:
        """Yield the messages that are complete now. Raises :class:`ProtocolError` for damaged ones."""
        missing_bytes, data = self._intake.take(event)
        if missing_bytes:
            raise ProtocolError(f"{missing_bytes} bytes of a run's outputs are missing")
        for message in self._decoder.feed(data):
            if isinstance(message, KernelMessage):
                yield checked(message)


def checked(message: KernelMessage) -> KernelMessage:
    """``message``, where its fields are what they should be: what a container sends is untrusted.

    Raises:
        ProtocolError: they are not.
    """
    objects = isinstance(message.content, dict) and isinstance(message.metadata, dict)
    names = isinstance(message.msg_type, str) and isinstance(message.run_id, str)
    if not objects or not names or not isinstance(message.buffers, list):
        raise ProtocolError("a message of the kernel has fields of a wrong type")
    return message
