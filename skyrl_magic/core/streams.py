r"""What a terminal would show of one stream: lines, some of which are still redrawn.

A :class:`Screen` takes a run's stdout or stderr as bytes, in any chunking, and keeps the rows that can still change.
``\r``, backspace, erasing and the cursor moves that progress bars use act as in a terminal; whoever shows the rows
takes the finished ones out (:meth:`Screen.take`), and they can be changed no more.

Deviations from a real terminal, on purpose: a newline returns to column 0 (output comes from a pipe, without a
terminal driver), the cursor rises above the rows that were taken only to the newest :data:`REACH_ROWS` that were given
back (:meth:`Screen.give_back`), a place on the whole screen (``\x1b[5;1H``) begins a new row, a tab is one column,
and a line is cut into rows after :data:`MAX_COLUMNS` columns, so that a line of gigabytes needs no memory; no newline
is put in there. A character takes as many columns as in a terminal (``core.protocol.columns``): half of a wide one that
is written over leaves a blank, and a mark belongs to the character before it.

Why not an emulator's package: those (pyte, say) keep a screen of fixed size and redraw it, and a run's output is lines
without end, which leave the screen as soon as they are finished, with when they came, and of which any part may be
missing.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from skyrl_magic.core.ansi import Pen, Tokenizer, render
from skyrl_magic.core.protocol.columns import are_singles, columns, columns_of, leading_marks

#: Width at which a line goes on in the next row.
MAX_COLUMNS = 4096
#: Rows above those that can change which the cursor can still reach: a block of bars is no larger.
REACH_ROWS = 40

Runs = list[tuple[str, str]]

_COLUMN_MOVES: dict[str, Callable[[int, int], int]] = {
    "\r": lambda _column, _count: 0,
    "\b": lambda column, _count: column - 1,
    "C": lambda column, count: column + count,
    "D": lambda column, count: column - count,
    "G": lambda _column, count: count - 1,
}
_ROW_MOVES = {"A": -1, "B": 1, "E": 1, "F": -1}


class Stamp(NamedTuple):
    """When something arrived: the clock's time in seconds, and a number that tells the order."""

    time_s: float = 0.0
    number: int = 0


@dataclasses.dataclass(slots=True)
class Row:
    """One line, or the part of a very long line between two cuts."""

    born: Stamp
    changed: Stamp
    runs: Runs = dataclasses.field(default_factory=list)
    width: int = 0
    wrapped: bool = False
    """The line goes on in the next row."""
    continued: bool = False
    """The line began in the row before."""
    returned: bool = False
    """The cursor was moved back in it since it was last at its end: more redrawing is to be expected."""
    sent: int = 0
    """Columns that were shown as stream text already, while the row was unfinished."""
    sent_chars: int = 0
    """Characters that this took on the front end's line, colour sequences included."""
    stale: bool = False
    """Shown columns were changed since."""
    padded: bool = False
    """Blanks were shown after the row's end, to cover what was there: it cannot be written on, only drawn anew."""
    unsent_since: Stamp | None = None
    shown: str = ""
    """The text as it was when it was last shown as stream text, with its newline where it was finished."""

    @property
    def end(self) -> str:
        """What follows the row's text when it is finished."""
        return "" if self.wrapped else "\n"

    def text(self, start: int = 0) -> str:
        """The row from a column on, with colours."""
        return render(_cut(self.runs, start, self.width) if start else self.runs)

    def put(self, column: int, style: str, text: str, stamp: Stamp) -> None:
        """Write ``text`` over what is there from ``column`` on."""
        marks = leading_marks(text)
        if marks and not column and self.width:
            text, marks = text[marks:], 0  # there is nothing before it
        if column > self.width:
            self._append("", " " * (column - self.width))
        self.stale = self.stale or column - (marks > 0) < self.sent
        if column == self.width:
            self._append(style, text)
        else:
            end = column + columns(text)
            self.runs = [*_cut(self.runs, 0, column), (style, text), *_cut(self.runs, end, self.width)]
            self.width = max(self.width, end)
        self._touch(stamp)

    def erase(self, start: int, end: int, stamp: Stamp) -> None:
        """Blank the columns ``[start, end)``; the row becomes shorter where they reach its end."""
        if start >= self.width:
            return
        self.stale = self.stale or start < self.sent
        if end >= self.width:
            self.runs, self.width = _cut(self.runs, 0, start), start
        else:
            self.runs = [*_cut(self.runs, 0, start), ("", " " * (end - start)), *_cut(self.runs, end, self.width)]
        self._touch(stamp)

    def mark_sent(self, chars: int) -> None:
        """The whole row has been shown as stream text, which took ``chars`` characters of the front end's line."""
        self.padded = self.stale and chars > len(self.text())
        self.sent, self.sent_chars, self.stale, self.unsent_since = self.width, chars, False, None

    def forget_sent(self, stamp: Stamp) -> None:
        """What was shown of the row is none of it any more: all of it is shown anew."""
        self.sent = self.sent_chars = 0
        self.stale = self.padded = False
        self.unsent_since = stamp

    def _append(self, style: str, text: str) -> None:
        if self.runs and self.runs[-1][0] == style:
            self.runs[-1] = (style, self.runs[-1][1] + text)
        else:
            self.runs.append((style, text))
        self.width += columns(text)

    def _touch(self, stamp: Stamp) -> None:
        self.changed = stamp
        if self.unsent_since is None:
            self.unsent_since = stamp


class Screen:
    """The rows of one stream that can still change, and the cursor in them. There is always at least one row."""

    def __init__(self) -> None:
        self._tokens = Tokenizer()
        self._pen = Pen()
        self._stamp = Stamp()
        self.rows = [Row(self._stamp, self._stamp)]
        self.row_index = 0
        self.reached: list[Row] = []
        """Rows that were taken and given back, and that the cursor came to again: they are among :attr:`rows`."""
        self.rose = False
        """The cursor was moved up to draw what is there anew. Who looks sets it back."""
        self._drawn = False
        self._above: deque[Row] = deque(maxlen=REACH_ROWS)
        self._taken = 0
        self._column = 0
        self._saved: tuple[int, int, Pen] | None = None

    @property
    def full_screen(self) -> bool:
        """Whether the program has drawn on a whole screen."""
        return self._tokens.full_screen

    @property
    def current(self) -> Row:
        """The row with the cursor. The rows above it are finished, unless the cursor is moved up again."""
        return self.rows[self.row_index]

    @property
    def moving(self) -> bool:
        """What the cursor is in is being redrawn, not just written on."""
        return self.current.returned or self.row_index < len(self.rows) - 1

    def feed(self, data: bytes, stamp: Stamp, *, final: bool = False) -> None:
        """Take the stream's next bytes, which arrived at ``stamp``; with ``final``, the stream is at its end."""
        self._stamp = stamp
        for kind, value in self._tokens.feed(data, final=final):
            if not kind:
                self._write(value)
            elif kind == "\n":
                self._line_feed()
            elif kind == "m":
                self._pen.apply(value)
            else:
                self._control(kind, value)

    def break_off(self, stamp: Stamp) -> None:
        """The next bytes do not follow the last ones: they begin a new row, without colours.

        What was being redrawn is forgotten: a state that is not its last one must not stay.
        """
        self._stamp = stamp
        self._tokens.reset()
        self._pen = Pen()
        if self.moving:
            for row in self.rows[self.row_index :]:
                row.erase(0, row.width, stamp)
            del self.rows[self.row_index + 1 :]
        self._begin_frame()

    def take(self, count: int) -> list[Row]:
        """Remove the first ``count`` rows, at most those above the cursor, and return them."""
        count = min(count, self.row_index)
        taken, self.rows[:count] = self.rows[:count], []
        self.row_index -= count
        self._taken += count
        return taken

    def give_back(self, row: Row) -> None:
        """The row that was taken last is shown in its place: the cursor may come to it again."""
        if row.wrapped or row.continued:
            self._above.clear()
        else:
            self._above.append(row)

    def cut_off(self) -> None:
        """What stands above cannot be reached any more: something else is shown in between."""
        self._above.clear()

    def _write(self, text: str) -> None:
        self._drawn = True
        while text:
            room = MAX_COLUMNS - self._column
            if room <= 0:
                self._line_feed(wrap=True)
                continue
            size, width = _fitting(text, room)
            if not size:
                self._line_feed(wrap=True)
                continue
            self.current.put(self._column, self._pen.style, text[:size], self._stamp)
            self._column += width
            text = text[size:]

    def _line_feed(self, *, wrap: bool = False) -> None:
        row = self.current
        row.changed = self._stamp
        self.rose &= self._drawn  # what comes below lines that are left as they are is no part of a block
        self._drawn = False
        self.row_index += 1
        self._column = 0
        if self.row_index == len(self.rows):
            row.wrapped = wrap
            self.rows.append(Row(self._stamp, self._stamp, continued=wrap))

    def _control(self, kind: str, value: str) -> None:
        numbers = [int(part) if part.isdecimal() else 0 for part in value.split(";")]
        count = max(1, numbers[0])
        if kind in _COLUMN_MOVES:
            self._move_to(_COLUMN_MOVES[kind](self._column, count))
        elif kind in _ROW_MOVES:
            self._move_to_row(self.row_index + _ROW_MOVES[kind] * count)
            if kind in "EF":
                self._move_to(0)
        elif kind in "Hf":
            self._begin_frame()
        elif kind == "s":
            self._saved = self._taken + self.row_index, self._column, copy.deepcopy(self._pen)
        elif kind == "u" and self._saved:
            row_number, column, pen = self._saved
            self._pen = copy.deepcopy(pen)
            self._move_to_row(row_number - self._taken)
            self._move_to(column)
        elif kind == "K":
            self._erase_line(numbers[0])
        elif kind == "J" and numbers[0] == 0:
            self._erase_line(0)
            for row in self.rows[self.row_index + 1 :]:
                row.erase(0, row.width, self._stamp)

    def _move_to_row(self, row_index: int) -> None:
        if row_index < self.row_index:
            self.rose, self._drawn = True, False
        if row_index < 0:
            count = min(-row_index, len(self._above))
            back = [self._above.pop() for _ in range(count)][::-1]
            for row in back:
                row.forget_sent(self._stamp)
            self.rows[:0] = back
            self.reached[:0] = back
            self._taken -= count
            row_index += count
        self.row_index = min(max(0, row_index), len(self.rows) - 1)

    def _begin_frame(self) -> None:
        """A place on the whole screen: there is none here, so what is written there begins a line of its own."""
        self.row_index = len(self.rows) - 1
        if self.current.width:
            self._line_feed()
        self._column = 0

    def _move_to(self, column: int) -> None:
        self._column = min(max(0, column), MAX_COLUMNS - 1)
        self.current.returned = True

    def _erase_line(self, mode: int) -> None:
        self._drawn = True
        row = self.current
        start = self._column if mode == 0 else 0
        end = self._column + 1 if mode == 1 else row.width
        row.erase(start, end, self._stamp)
        row.returned = True


def _fitting(text: str, room: int) -> tuple[int, int]:
    """How many of the first characters fit into so many columns, and how many columns they take."""
    if len(text) <= room // 2 or are_singles(text):
        size = min(len(text), room)
        return size, columns(text[:size])
    width = 0
    for size, char in enumerate(text):
        if width + columns_of(char) > room:
            return size, width
        width += columns_of(char)
    return len(text), width


def _cut(runs: Runs, start: int, end: int) -> Runs:
    """The columns ``[start, end)`` of ``runs``, with a blank in place of half a wide character."""
    result: Runs = []
    at, kept = 0, start == 0
    for style, text in runs:
        if at > end:
            break
        if are_singles(text):
            part = text[max(0, start - at) : max(0, end - at)]
            at += len(text)
            kept = start < at <= end
            if part:
                result.append((style, part))
        else:
            parts, at, kept = _cut_characters(style, text, (at, kept), (start, end))
            result += parts
    return result


def _cut_characters(style: str, text: str, before: tuple[int, bool], part: tuple[int, int]) -> tuple[Runs, int, bool]:
    """The same of one run, which begins ``before``: at a column, and after a character that is kept or not."""
    found: Runs = []
    at, kept = before
    start, end = part
    for char in text:
        width = columns_of(char)
        if width:
            kept = start <= at and at + width <= end
            if not kept and start < at + width and at < end:
                found.append(("", " "))
        if kept:
            found.append((style, char))
        at += width
    groups = itertools.groupby(found, lambda run: run[0])
    return [(style, "".join(char for _, char in group)) for style, group in groups], at, kept
