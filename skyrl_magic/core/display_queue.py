"""What was decided to be shown and is not sent yet: stream text in order, and displays that are updated in place."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import deque
from typing import TypeAlias

from skyrl_magic.core.display_budget import FINAL_MESSAGES, DisplayBudget
from skyrl_magic.core.display_merge import COMM_OPEN, COMM_TYPES, DISPLAYS, merge_key, merged_message, takes_outputs
from skyrl_magic.core.protocol import STDERR, STREAMS, KernelMessage

#: One message at the end of a run is no larger than this, in bytes.
_MESSAGE_BYTES = 200_000
#: What a message takes beside its text, about.
_HEADER_BYTES = 500
#: So many displays of a Python cell wait to be shown at most; a flood of them keeps the newest.
MAX_WAITING_DISPLAYS = 200


@dataclasses.dataclass(frozen=True)
class StreamText:
    """Text for the cell's stdout or stderr."""

    stream: str
    text: str


@dataclasses.dataclass(frozen=True)
class Again:
    """Lines that were sent as stream text and are drawn anew: the cell is filled again without them, where it can be.

    ``size_bytes`` is what that takes on the wire, about.
    """

    lines: str
    size_bytes: int


@dataclasses.dataclass(frozen=True)
class ShowText:
    """A new display with text; ``stream`` is empty where it belongs to both streams."""

    display_id: str
    text: str
    stream: str
    instead_of: Again | None = None
    """The stream's last lines, in place of which it is shown."""


@dataclasses.dataclass(frozen=True)
class UpdateText:
    """New text for a display that was shown."""

    display_id: str
    text: str
    stream: str
    instead_of: Again | None = None
    """The stream's last lines, which it shows too from now on."""


@dataclasses.dataclass(frozen=True)
class ShowMessage:
    """A Jupyter message of a Python cell, as it is."""

    message: KernelMessage

    @property
    def text(self) -> str:
        """None of it is text of the run's streams."""
        return ""


Action: TypeAlias = StreamText | ShowText | UpdateText | ShowMessage


@dataclasses.dataclass(eq=False)
class Live:
    """A display of lines that are still redrawn. ``rows`` of its screen belong to it."""

    display_id: str
    stream: str
    text: str = ""
    rows: int = 0
    shown: bool = False
    waits_since_s: float = math.inf
    instead_of: Again | None = None
    """Lines that were sent as stream text and that it shows anew."""


@dataclasses.dataclass(eq=False)
class _Text:
    stream: str
    parts: deque[str]


@dataclasses.dataclass(eq=False)
class _Message:
    message: KernelMessage | None
    """None once it is shown or given up."""

    @property
    def is_border(self) -> bool:
        """What comes after it is shown elsewhere."""
        return self.message is not None and takes_outputs(self.message)

    def outlives_clear(self) -> bool:
        """Whether it has an effect outside of what is cleared; a display that has one becomes an update."""
        if self.message is None or self.message.msg_type in COMM_TYPES:
            return self.message is not None
        if merge_key(self.message) is None:
            return False
        self.message = dataclasses.replace(self.message, msg_type="update_display_data")
        return True


class DisplayQueue:
    """First in, first out for what has a place in the cell's output; updates of displays go beside it."""

    def __init__(self) -> None:
        self._items: deque[_Text | Live | _Message] = deque()
        self._by_key: dict[object, _Message] = {}
        self._displays: deque[_Message] = deque()
        self._since_s = math.inf
        self._changed: list[Live] = []
        self._sent_last: str | Live | None = None
        self.last: str | Live | None = None
        """What the newest place in the cell's output belongs to: a stream, a display of ours, or (None) a message."""

    @property
    def waiting(self) -> bool:
        """There is something to send."""
        return bool(self._items or self._changed)

    def wait_s(self, now_s: float, budget: DisplayBudget) -> float:
        """Seconds until what is first in the queue may be sent, as far as that is a message."""
        first = self._items[0] if self._items else None
        return budget.rich.wait_s(now_s) if isinstance(first, _Message) else 0.0

    def write(self, stream: str, text: str, now_s: float) -> None:
        """Append stream text: a line, or a part of one. It is never cut in two."""
        tail = self._items[-1] if self._items else None
        if isinstance(tail, _Text) and tail.stream == stream:
            tail.parts.append(text)
        else:
            self._append(_Text(stream, deque([text])), now_s)
        self.last = stream

    def take_back(self, stream: str, text: str) -> str | None:
        """Remove ``text``, the last of a stream, as far as it waits still: it is going to be shown anew.

        Returns what of it was sent already; None where nothing is removed, as something else waits after it.
        """
        last = self._items[-1] if self._items else None
        kept: deque[str] = deque()
        if isinstance(last, _Text) and last.stream == stream:
            kept = last.parts.copy()
            while text and kept and text.endswith(kept[-1]):
                text = text.removesuffix(kept.pop())
        waits = any(isinstance(item, _Text) and item.stream == stream for item in self._items if item is not last)
        if text and (kept or waits):
            return None
        if isinstance(last, _Text) and last.stream == stream:
            last.parts = kept
            if not kept:
                self._items.pop()
                self._set_last()
        return text

    def open(self, live: Live, now_s: float) -> None:
        """Give ``live`` its place after all that was appended before."""
        self._append(live, now_s)
        self.last = live

    def show(self, message: KernelMessage, now_s: float) -> int:
        """Append a message, or change one that waits so that it shows this one's state.

        Returns how many displays were given up for it: the oldest that wait, when there are too many.
        """
        key = merge_key(message)
        waiting = None if key is None else self._by_key.get(key)
        merged = None if waiting is None or waiting.message is None else merged_message(waiting.message, message)
        if waiting is not None and merged is not None:
            waiting.message = merged
            return 0
        if message.msg_type == COMM_OPEN:
            self._by_key.clear()  # what comes after it may name this widget: it stays after it
        item = _Message(message)
        if key is not None:
            self._by_key[key] = item
        self._append(item, now_s)
        self.last = None
        if message.msg_type not in DISPLAYS:
            return 0
        self._displays.append(item)
        return self._give_up_oldest() if len(self._displays) > MAX_WAITING_DISPLAYS else 0

    def _give_up_oldest(self) -> int:
        return int(self._take_out(self._displays.popleft()) is not None)

    def _take_out(self, item: _Message) -> KernelMessage | None:
        """What the item has to show still; nothing waits in it any more."""
        message, item.message = item.message, None
        key = None if message is None else merge_key(message)
        if key is not None and self._by_key.get(key) is item:
            del self._by_key[key]
        return message

    def open_first(self, live: Live, now_s: float) -> None:
        """Give ``live`` its place before all that waits."""
        if not self._items:
            self._since_s = now_s
        self._items.appendleft(live)

    def clear(self, message: KernelMessage, now_s: float) -> None:
        """Append a ``clear_output``: what it clears and was not sent yet need not be sent any more.

        It clears the cell, or since a widget began to take what the cell shows, that widget. Comms go on, and so do
        displays of earlier cells that are updated.
        """
        items = list(self._items)
        begins = [at for at, item in enumerate(items) if isinstance(item, _Message) and item.is_border]
        first = begins[-1] + 1 if begins else 0
        kept = [item for item in items[first:] if isinstance(item, _Message) and item.outlives_clear()]
        self._items = deque([*items[:first], *kept])
        there = [item for item in self._items if isinstance(item, _Message)]
        self._by_key = {key: item for key, item in self._by_key.items() if item in there}
        self._displays = deque(item for item in self._displays if item in there)
        self._changed.clear()
        self._append(_Message(message), now_s)
        self.last = None

    def change(self, live: Live, text: str, now_s: float) -> None:
        """Set what ``live`` shows."""
        if text == live.text:
            return
        live.text = text
        if live.shown and live not in self._changed:
            live.waits_since_s = now_s
            self._changed.append(live)

    def show_instead_of(self, live: Live, again: Again, now_s: float) -> None:
        """``live`` shows lines anew that were sent as stream text before it."""
        live.instead_of = again
        if live.shown and live not in self._changed:
            live.waits_since_s = now_s
            self._changed.append(live)

    def leave_out_before(self, live: Live, room_bytes: float) -> tuple[int, int]:
        """Give up the text that waits before ``live``, but for its first ``room_bytes`` on the wire.

        Returns how many bytes and lines were given up.
        """
        if live.shown or live not in self._items:
            return 0, 0
        size_bytes = lines = 0
        for item in itertools.takewhile(lambda item: item is not live, self._items):
            if not isinstance(item, _Text):
                continue
            kept: deque[str] = deque()
            for part in item.parts:
                room_bytes -= _text_wire_bytes(part)
                if room_bytes >= 0:
                    kept.append(part)
                else:
                    size_bytes += len(part.encode())
                    lines += part.count("\n")
            item.parts = kept
        self._items = deque(item for item in self._items if not isinstance(item, _Text) or item.parts)
        return size_bytes, lines

    def close(self, live: Live) -> None:
        """``live`` changes no more. If it was not shown yet, it becomes stream text, or nothing."""
        if live.shown or live.instead_of or live not in self._items:
            return
        at = self._items.index(live)
        if live.text:
            self._items[at] = _Text(live.stream, deque([live.text + "\n"]))
        else:
            del self._items[at]
        if self.last is live:
            self._set_last()

    def _set_last(self) -> None:
        newest = self._items[-1] if self._items else self._sent_last
        self.last = newest.stream if isinstance(newest, _Text) else None if isinstance(newest, _Message) else newest

    def send(self, now_s: float, budget: DisplayBudget, *, final: bool = False) -> list[Action]:
        """The messages that may be sent now, spent from ``budget``; with ``final``, all that the kernel may send."""
        allowed = FINAL_MESSAGES if final else budget.messages(now_s)
        waiting = sum(not isinstance(item, _Message) for item in self._items)
        if waiting + len(self._changed) > allowed:
            self._coarsen(allowed)
        room_bytes = budget.kernel.size_bytes(now_s)
        if not final:
            room_bytes = min(room_bytes, budget.size_bytes(now_s))
        actions: list[Action] = []
        turns: list[Live | None] = sorted([*self._changed, None], key=self._age) if self._items else [*self._changed]
        for live in turns:
            share = math.inf if final else allowed - len(actions)
            if live is None:
                actions += self._send_items(share, room_bytes - _size_bytes(actions), now_s, budget, final=final)
            elif share > 0:
                self._changed.remove(live)
                actions.append(UpdateText(live.display_id, live.text, live.stream, live.instead_of))
                live.instead_of = None
                budget.kernel.spend(now_s, 1, _wire_bytes(actions[-1]))
        if actions:
            texts = sum(not isinstance(action, ShowMessage) for action in actions)
            budget.spend(now_s, texts, _size_bytes(actions))
        return actions

    def _age(self, live: Live | None) -> float:
        return self._since_s if live is None else live.waits_since_s

    def _append(self, item: _Text | Live | _Message, now_s: float) -> None:
        if not self._items:
            self._since_s = now_s
        self._items.append(item)

    def _send_items(
        self, share: float, room_bytes: float, now_s: float, budget: DisplayBudget, *, final: bool
    ) -> list[Action]:
        actions: list[Action] = []
        while self._items and budget.kernel.size_bytes(now_s) > 0:
            item = self._items[0]
            if isinstance(item, _Message):
                if not final and item.message is not None and budget.rich.wait_s(now_s) > 0:
                    break
                self._items.popleft()
                actions += self._send_message(item, now_s, budget, final=final)
                continue
            if share <= 0 or room_bytes <= 0:
                break
            share -= 1
            if isinstance(item, Live):
                item.shown = True
                actions.append(ShowText(item.display_id, item.text, item.stream, item.instead_of))
                item.instead_of = None
            else:
                actions.append(StreamText(item.stream, _take_text(item.parts, min(room_bytes, _MESSAGE_BYTES))))
            room_bytes -= _size_bytes(actions[-1:])
            budget.kernel.spend(now_s, 1, _wire_bytes(actions[-1]))
            self._sent_last = item if isinstance(item, Live) else item.stream
            if isinstance(item, Live) or not item.parts:
                self._items.popleft()
            elif room_bytes < _MESSAGE_BYTES:
                break  # the bytes are used up, but for less than a line
        self._since_s = now_s  # what is left waits its turn again
        return actions

    def _send_message(self, item: _Message, now_s: float, budget: DisplayBudget, *, final: bool) -> list[Action]:
        message = self._take_out(item)
        if message is None:
            return []
        size_bytes = _message_bytes(message)
        budget.kernel.spend(now_s, 1, size_bytes)
        if not final:
            budget.rich.spend(size_bytes)
        while self._displays and self._displays[0].message is None:
            self._displays.popleft()
        self._sent_last = None
        return [ShowMessage(message)]

    def _coarsen(self, allowed: int) -> None:
        """Make about ``allowed`` of the texts that wait: neighbours are joined by stream, as few as will do.

        Each stream's own order stays, and the order between streams but for the neighbours.
        """
        neighbours = math.ceil(len(self._items) / max(1, allowed // len(STREAMS)))
        items: deque[_Text | Live | _Message] = deque()
        texts: dict[str, _Text] = {}
        for number, item in enumerate(self._items):
            if number % neighbours == 0:
                last = items[-1] if items else None
                texts = {last.stream: last} if isinstance(last, _Text) else {}
            if not isinstance(item, _Text):
                texts = {}
            elif item.stream in texts:
                texts[item.stream].parts.extend(item.parts)
                continue
            else:
                texts[item.stream] = item
            items.append(item)
        self._items = items


def _message_bytes(message: KernelMessage) -> int:
    """About what a message takes on the wire: its JSON and its buffers."""
    return len(message.payload) + len(json.dumps([message.content, message.metadata], ensure_ascii=False))


def _wire_bytes(action: Action) -> int:
    """About what text takes on the wire: as JSON, with a header; a display of stderr has it twice."""
    size_bytes = _text_wire_bytes(action.text)
    twice = not isinstance(action, StreamText | ShowMessage) and action.stream == STDERR
    return _HEADER_BYTES + size_bytes * (1 + twice) + _again_bytes(action)


def _text_wire_bytes(text: str) -> int:
    return len(text.encode()) + sum(map(text.count, '\n\r\t"\\')) + 5 * text.count("\x1b")


def _take_text(parts: deque[str], limit_bytes: float) -> str:
    """Remove as many parts as fit, at least one, and join them."""
    taken = [parts.popleft()]
    size = len(taken[0].encode())
    while parts:
        size += len(parts[0].encode())
        if size > limit_bytes:
            break
        taken.append(parts.popleft())
    return "".join(taken)


def _size_bytes(actions: list[Action]) -> int:
    return sum(len(action.text.encode()) for action in actions) + sum(map(_again_bytes, actions))


def _again_bytes(action: Action) -> int:
    """What it takes to fill the cell again, for an action that does."""
    again = None if isinstance(action, StreamText | ShowMessage) else action.instead_of
    return again.size_bytes if again else 0
