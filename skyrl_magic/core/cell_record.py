"""What a cell's output consists of, so that it can be filled again without lines that are going to be drawn anew.

No message changes text that was sent to a stream. A cell that is this package's alone is therefore cleared and filled
again where a program moves the cursor up into lines that were shown, once for each such block: from there on the block
is a display. A :class:`CellRecord` remembers what to fill the cell with, within what Jupyter carries at once.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from skyrl_magic.core.display_budget import BURST_BYTES
from skyrl_magic.core.display_merge import CLEAR_OUTPUT, display_id_of, is_output, takes_outputs
from skyrl_magic.core.protocol import KernelMessage

#: A cell with more outputs than that, or more bytes than a burst of text, is not filled again.
MAX_OUTPUTS = 50
MAX_BYTES = BURST_BYTES
#: What a message takes beside what it shows, about.
_HEADER_BYTES = 500
_LINES = re.compile(r"[^\n]*\n|[^\n]+")


@dataclass(frozen=True)
class ShownText:
    """Text of a stream."""

    stream: str
    text: str


@dataclass(frozen=True)
class ShownDisplay:
    """A display of this package; ``data`` by MIME type."""

    display_id: str
    data: Mapping[str, str]


Shown: TypeAlias = ShownText | ShownDisplay | KernelMessage


class CellRecord:
    """The outputs of one cell, in order. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._outputs: list[Shown] = []
        self._sizes: list[int] = []
        self._known = True
        self._clears = False
        """The next output comes in place of all that is there."""

    def lose(self) -> None:
        """Something is in the cell that this record cannot show again: a question and its answer, say."""
        with self._lock:
            self._known = False
            self._outputs, self._sizes = [], []

    def write(self, stream: str, text: str) -> None:
        """Text was sent to a stream."""
        with self._lock:
            last = self._outputs[-1] if self._outputs and not self._clears else None
            if isinstance(last, ShownText) and last.stream == stream:
                self._outputs[-1] = ShownText(stream, last.text + text)
                self._sizes[-1] += len(text.encode())
                self._keep_small()
            else:
                self._append(ShownText(stream, text))

    def show(self, display_id: str, data: Mapping[str, str]) -> None:
        """A display of this package was shown."""
        with self._lock:
            self._append(ShownDisplay(display_id, dict(data)))

    def update(self, display_id: str, data: Mapping[str, str]) -> None:
        """A display of this package shows something else, in this cell or in another one."""
        new = ShownDisplay(display_id, dict(data))
        self._change(lambda shown: isinstance(shown, ShownDisplay) and shown.display_id == display_id, lambda _: new)

    def take(self, message: KernelMessage) -> None:
        """A message of a Python cell was sent."""
        if takes_outputs(message):
            self.lose()  # what follows may be a widget's, and not the cell's
        elif message.msg_type == CLEAR_OUTPUT:
            with self._lock:
                self._clears = True
                if not message.content.get("wait"):
                    self._outputs, self._sizes, self._clears = [], [], False
        elif is_output(message):
            with self._lock:
                self._append(message)
        elif message.msg_type == "update_display_data":
            display_id = display_id_of(message)
            self._change(
                lambda shown: isinstance(shown, KernelMessage) and display_id_of(shown) == display_id is not None,
                lambda shown: replace(message, msg_type=getattr(shown, "msg_type", "")),
            )

    def without(self, stream: str, text: str) -> list[Shown] | None:
        """The outputs without the last lines of a stream; None where they are not found or the outputs are not known.

        Args:
            stream: the stream.
            text: the lines as they are to be seen, and what was shown of an unfinished one after them.
        """
        with self._lock:
            if not self._known or self._clears:
                return None
            outputs = list(self._outputs)
        lines = _LINES.findall(text)
        for at in range(len(outputs) - 1, -1, -1):
            shown = outputs[at]
            if not lines or not isinstance(shown, ShownText) or shown.stream != stream:
                continue
            there = _LINES.findall(shown.text)
            while lines and there:
                if _seen(there.pop()) != _seen(lines.pop()):
                    return None
            outputs[at] = ShownText(stream, "".join(there))
        return None if lines else [shown for shown in outputs if not isinstance(shown, ShownText) or shown.text]

    def fill(self, outputs: list[Shown]) -> None:
        """The cell was cleared and filled again, with these."""
        with self._lock:
            self._outputs, self._sizes = [], []
            for shown in outputs:
                self._append(shown)

    def _append(self, shown: Shown) -> None:
        if self._clears:
            self._outputs, self._sizes, self._clears = [], [], False
        if self._known:
            self._outputs.append(shown)
            self._sizes.append(_size_bytes(shown))
            self._keep_small()

    def _change(self, is_it: Callable[[Shown], bool], new: Callable[[Shown], Shown]) -> None:
        with self._lock:
            for at, shown in enumerate(self._outputs):
                if is_it(shown):
                    self._outputs[at] = new(shown)
                    self._sizes[at] = _size_bytes(self._outputs[at])
            self._keep_small()

    def _keep_small(self) -> None:
        if len(self._outputs) > MAX_OUTPUTS or sum(self._sizes) > MAX_BYTES:
            self.lose()


def wire_bytes(outputs: list[Shown]) -> int:
    """About what it takes to show these outputs again."""
    return sum(map(_size_bytes, outputs))


def _size_bytes(shown: Shown) -> int:
    if isinstance(shown, ShownText):
        return _HEADER_BYTES + len(shown.text.encode())
    if isinstance(shown, ShownDisplay):
        return _HEADER_BYTES + sum(len(text.encode()) for text in shown.data.values())
    return _HEADER_BYTES + len(shown.payload) + len(json.dumps([shown.content, shown.metadata], ensure_ascii=False))


def _seen(line: str) -> str:
    r"""What is to be seen of a line: text after a ``\r`` is the whole line drawn anew, with blanks over its rest."""
    text = line.removesuffix("\n")
    return text.rpartition("\r")[2].rstrip(" ") + line[len(text) :]
