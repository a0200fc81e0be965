"""A run's log as a view: a Python run shows again what it showed, and asks nothing."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable

from skyrl_magic.core import protocol
from skyrl_magic.core.display_merge import COMM_TYPES, DISPLAYS
from skyrl_magic.core.outputs import ERROR, EXECUTE_REPLY, INPUT_REQUEST, KERNEL_DIED, OutputsDecoder
from skyrl_magic.core.tracebacks import bounded_error
from skyrl_magic.service.watch import payload_bytes
from skyrl_magic.ui.cell_outputs import plain_text
from skyrl_magic.ui.display import RunDisplay

#: Records that are no output, and messages of widgets: those live with the kernel, and are not made twice.
_NOT_SHOWN = COMM_TYPES | {EXECUTE_REPLY, INPUT_REQUEST, KERNEL_DIED}


class ReplayView:
    """Shows a log's frames on a display, from the byte ``start`` of each stream on."""

    def __init__(self, run_id: str, display: RunDisplay, start: int = 0) -> None:
        self._run_id, self._display, self._start = run_id, display, start
        self._decoder = OutputsDecoder()
        self._prefix = uuid.uuid4().hex[:12]

    def feed(self, event: protocol.Message) -> None:
        """Show a frame. Raises ProtocolError for a damaged one."""
        if isinstance(event, protocol.Output) and event.stream == protocol.OUTPUTS:
            for message in self._decoder.feed(event):
                if message.msg_type == ERROR:
                    self._display.message(bounded_error(message, self._run_id))
                elif message.msg_type not in _NOT_SHOWN:
                    self._display.message(self._anew(message))
        elif isinstance(event, protocol.Output):
            self._display.feed(dataclasses.replace(event, offset=event.offset - self._start))
        elif isinstance(event, protocol.Gap):
            start, end = event.start - self._start, event.end - self._start
            self._display.feed(dataclasses.replace(event, start=start, end=end))

    def _anew(self, message: protocol.KernelMessage) -> protocol.KernelMessage:
        """With an id of this replay: what it shows must not change what the run's own cell shows."""
        transient = message.content.get("transient")
        if not isinstance(transient, dict) or not transient.get("display_id"):
            return message
        own = {**transient, "display_id": f"{self._prefix}-{transient['display_id']}"}
        return dataclasses.replace(message, content={**message.content, "transient": own})


class ReplayText:
    """Writes a log's frames as bytes: text as it is, displays as their text.

    Args:
        write: takes the bytes and returns how many they were.
    """

    def __init__(self, write: Callable[[bytes], int]) -> None:
        self._write = write
        self._decoder = OutputsDecoder()
        self.size_bytes = 0

    def feed(self, event: protocol.Message) -> None:
        """Write a frame. Raises ProtocolError for a damaged one."""
        if not isinstance(event, protocol.Output):
            return
        if event.stream != protocol.OUTPUTS:
            self.size_bytes += self._write(payload_bytes(event))
            return
        for message in self._decoder.feed(event):
            self.size_bytes += self._write(message_text(message).encode("utf-8", "replace"))


def message_text(message: protocol.KernelMessage) -> str:
    """What of a Python cell's message is text; empty where it has none."""
    if message.msg_type in DISPLAYS:
        return plain_text(message)
    entries = message.content.get("traceback")
    if message.msg_type == ERROR and isinstance(entries, list):
        return "\n".join(map(str, entries)) + "\n"
    return f"{message.content.get('prompt', '')}\n" if message.msg_type == INPUT_REQUEST else ""
