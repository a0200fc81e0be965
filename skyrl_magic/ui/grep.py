"""The lines of a log that a pattern is found in."""

from __future__ import annotations

import re
from collections.abc import Callable

from skyrl_magic.core import protocol
from skyrl_magic.core.outputs import OutputsDecoder
from skyrl_magic.service.watch import payload_bytes
from skyrl_magic.ui.replay import message_text

#: A line that is longer is taken in parts, in bytes.
_LINE_BYTES = 1 << 20
#: Colours and other escape sequences: the pattern is for the text.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


class Grep:
    """Takes a log's frames, every byte of them, and hands on the lines that match.

    A line that is redrawn counts as what it shows in the end.

    Args:
        pattern: what is looked for in each line.
        found: hears the stream and the line with its newline.
    """

    def __init__(self, pattern: re.Pattern[str], found: Callable[[str, bytes], object]) -> None:
        self._pattern, self._found = pattern, found
        self._begun = {stream: bytearray() for stream in protocol.STREAMS}
        self._decoder = OutputsDecoder()

    def feed(self, event: protocol.Message) -> None:
        """Take a frame. Raises SessionError or ProtocolError for a damaged one."""
        if not isinstance(event, protocol.Output):
            return
        if event.stream == protocol.OUTPUTS:
            for message in self._decoder.feed(event):
                for text in message_text(message).splitlines():
                    self._look(protocol.STDOUT, text.encode("utf-8", "replace"))
            return
        begun = self._begun[event.stream]
        begun += payload_bytes(event)
        *lines, rest = begun.split(b"\n")
        for line in lines:
            self._look(event.stream, bytes(line))
        begun[:] = rest
        if len(begun) > _LINE_BYTES:
            self._rest(event.stream)

    def close(self) -> None:
        """The log is at its end: take the lines that have none."""
        for stream in self._begun:
            self._rest(stream)

    def _rest(self, stream: str) -> None:
        line = bytes(self._begun[stream])
        self._begun[stream].clear()
        if line:
            self._look(stream, line)

    def _look(self, stream: str, line: bytes) -> None:
        drawn = line.rstrip(b"\r").rpartition(b"\r")[2]
        if self._pattern.search(_ESCAPES.sub("", drawn.decode("utf-8", "replace"))):
            self._found(stream, drawn + b"\n")
