"""What was decided to be shown and is not sent yet: stream text in order, and displays that are updated in place."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from typing import TypeAlias

from skyrl_magic.core.display_budget import FINAL_MESSAGES, DisplayBudget

#: One message at the end of a run is no larger than this, in bytes.
_MESSAGE_BYTES = 200_000


@dataclasses.dataclass(frozen=True)
class StreamText:
    """Text for the cell's stdout or stderr."""

    stream: str
    text: str


@dataclasses.dataclass(frozen=True)
class ShowText:
    """A new display with text; ``stream`` is empty where it belongs to both streams."""

    display_id: str
    text: str
    stream: str


@dataclasses.dataclass(frozen=True)
class UpdateText:
    """New text for a display that was shown."""

    display_id: str
    text: str
    stream: str


Action: TypeAlias = StreamText | ShowText | UpdateText


@dataclasses.dataclass(eq=False)
class Live:
    """A display of lines that are still redrawn. ``rows`` of its screen belong to it."""

    display_id: str
    stream: str
    text: str = ""
    rows: int = 0
    shown: bool = False
    waits_since_s: float = math.inf


@dataclasses.dataclass(eq=False)
class _Text:
    stream: str
    parts: deque[str]


class DisplayQueue:
    """First in, first out for what has a place in the cell's output; updates of displays go beside it."""

    def __init__(self) -> None:
        self._items: deque[_Text | Live] = deque()
        self._since_s = math.inf
        self._changed: list[Live] = []
        self._sent_last: str | Live | None = None
        self.last: str | Live | None = None
        """What the newest place in the cell's output belongs to: a stream, or a display."""

    @property
    def waiting(self) -> bool:
        """There is something to send."""
        return bool(self._items or self._changed)

    def write(self, stream: str, text: str, now_s: float) -> None:
        """Append stream text: a line, or a part of one. It is never cut in two."""
        tail = self._items[-1] if self._items else None
        if isinstance(tail, _Text) and tail.stream == stream:
            tail.parts.append(text)
        else:
            self._append(_Text(stream, deque([text])), now_s)
        self.last = stream

    def open(self, live: Live, now_s: float) -> None:
        """Give ``live`` its place after all that was appended before."""
        self._append(live, now_s)
        self.last = live

    def change(self, live: Live, text: str, now_s: float) -> None:
        """Set what ``live`` shows."""
        if text == live.text:
            return
        live.text = text
        if live.shown and live not in self._changed:
            live.waits_since_s = now_s
            self._changed.append(live)

    def close(self, live: Live) -> None:
        """``live`` changes no more. If it was not shown yet, it becomes stream text, or nothing."""
        if live.shown or live not in self._items:
            return
        at = self._items.index(live)
        if live.text:
            self._items[at] = _Text(live.stream, deque([live.text + "\n"]))
        else:
            del self._items[at]
        if self.last is live:
            newest = self._items[-1] if self._items else self._sent_last
            self.last = newest.stream if isinstance(newest, _Text) else newest

    def send(self, now_s: float, budget: DisplayBudget, *, final: bool = False) -> list[Action]:
        """The messages that may be sent now, spent from ``budget``; with ``final``, all."""
        allowed = FINAL_MESSAGES if final else budget.messages(now_s)
        if len(self._items) + len(self._changed) > allowed:
            self._coarsen()
        room_bytes: float = math.inf if final else budget.size_bytes(now_s)
        actions: list[Action] = []
        turns: list[Live | None] = sorted([*self._changed, None], key=self._age) if self._items else [*self._changed]
        for live in turns:
            share = math.inf if final else allowed - len(actions)
            if live is None:
                actions += self._send_items(share, room_bytes - _size_bytes(actions), now_s)
            elif share > 0:
                self._changed.remove(live)
                actions.append(UpdateText(live.display_id, live.text, live.stream))
        if actions:
            budget.spend(now_s, len(actions), _size_bytes(actions))
        return actions

    def _age(self, live: Live | None) -> float:
        return self._since_s if live is None else live.waits_since_s

    def _append(self, item: _Text | Live, now_s: float) -> None:
        if not self._items:
            self._since_s = now_s
        self._items.append(item)

    def _send_items(self, share: float, room_bytes: float, now_s: float) -> list[Action]:
        actions: list[Action] = []
        while self._items and len(actions) < share and room_bytes > 0:
            item = self._items[0]
            if isinstance(item, Live):
                item.shown = True
                actions.append(ShowText(item.display_id, item.text, item.stream))
            else:
                actions.append(StreamText(item.stream, _take_text(item.parts, min(room_bytes, _MESSAGE_BYTES))))
            room_bytes -= _size_bytes(actions[-1:])
            self._sent_last = item if isinstance(item, Live) else item.stream
            if isinstance(item, Live) or not item.parts:
                self._items.popleft()
            elif room_bytes < _MESSAGE_BYTES:
                break  # the bytes are used up, but for less than a line
        self._since_s = now_s  # what is left waits its turn again
        return actions

    def _coarsen(self) -> None:
        """Join what each stream wrote between two displays: its own order stays, the order between streams not."""
        items: deque[_Text | Live] = deque()
        texts: dict[str, _Text] = {}
        for item in self._items:
            if isinstance(item, Live):
                texts = {}
            elif item.stream in texts:
                texts[item.stream].parts.extend(item.parts)
                continue
            else:
                texts[item.stream] = item
            items.append(item)
        self._items = items


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
    return sum(len(action.text.encode()) for action in actions)
