r"""What of a stream can still be seen: progress bars overwrite what they wrote.

:func:`superseded` finds the bytes that a terminal shows the same without, whatever came before and comes after them;
:class:`Extent` counts what is to be seen of a stream so far. Both know the moves that progress bars use: ``\r``,
backspace, erasing a line, the cursor's moves within lines that are there. Anything else is left alone. Columns and rows
are those of the client's screen (``core.streams``): characters take the columns that they take in a terminal, a newline
returns to column 0.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Dict, List, NamedTuple, Optional, Tuple

from skyrl_magic.core.protocol.columns import columns, leading_marks

Range = Tuple[int, int]

_TOKEN = re.compile(
    rb"(?P<text>[\x09\x20-\x7e\x80-\xff]+)|(?P<cr>\r)|(?P<lf>[\n\x0b\x0c])|(?P<bs>\x08+)"
    rb"|\x1b\[(?P<arguments>[0-?]{0,64}[ -/]{0,4})(?P<final>[@-~])|(?P<odd>\x1b)|(?P<none>[\x00-\x1f\x7f])"
)
#: An escape sequence whose rest is still to come.
_CUT = re.compile(rb"\x1b(?:\[[0-?]{0,64}[ -/]{0,4})?\Z")
_NOT_LINES = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_NOT_PLAIN = re.compile(rb"[^\r\x20-\x7e]")
_COLORS = re.compile(rb"\x1b\[([0-9;:]*)m")
#: Control sequences with such arguments set modes; but for the cursor's visibility a client may want to know of them.
_MODE = re.compile(rb"^[<=>?]|[ -/]")
_NO_COLUMNS = re.compile("[\x7f-\x9f]")
#: The client's screen cuts a line into rows there: from there on it is another line.
_MAX_COLUMNS = 4096
_END = 1 << 62
#: UTF-8: the least first byte of a character of so many bytes, and what a byte inside one looks like.
_FIRST_BYTES = ((0xF0, 4), (0xE0, 3), (0xC0, 2))
_CONTINUATION_MASK, _CONTINUATION = 0xC0, 0x80
#: Rows above the cursor that a program is taken to reach again.
_REACH_ROWS = 40


def incomplete_suffix(data: bytes) -> int:
    """How many bytes at the end of ``data`` begin a UTF-8 character that is not complete yet (0 to 3)."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if not continues(byte):
            length = next((length for first, length in _FIRST_BYTES if byte >= first), 1)
            return back if length > back else 0
    return 0


def continues(byte: int) -> bool:
    """Whether ``byte`` is inside a UTF-8 character."""
    return byte & _CONTINUATION_MASK == _CONTINUATION


class _Step(NamedTuple):
    """One token and where the cursor is before it; ``column`` is None where nobody knows."""

    start: int
    kind: str
    row: int
    column: Optional[int]
    lowest: int = 0
    """What it writes on or erases in its row: columns ``[lowest, highest)``; for a newline, the row that it reaches."""
    highest: int = 0


def superseded(data: bytes, column: Optional[int], *, odd: bool = False, least_bytes: int = 1) -> List[Range]:
    """The parts of ``data`` that nothing is to be seen of, and that leave the cursor and the colours where they are.

    Args:
        data: the next bytes of a stream, from a token's start on.
        column: where the cursor is before them; None where nobody knows.
        odd: what came before may swallow what follows, up to the next newline.
        least_bytes: shorter parts are not worth it.
    """
    if b"\r" not in data and b"\x08" not in data and b"\x1b" not in data:
        return []
    ranges = None if odd or _NOT_PLAIN.search(data) else _plain_superseded(data)
    if ranges is None:
        steps = _steps(data, column, odd=odd)
        ranges = _loops(steps, _droppable(steps))
    worth = [(start, end) for start, end in ranges if end - start >= least_bytes]
    return [part for found in worth for part in _without_colors(data, *found)]


def _plain_superseded(data: bytes) -> Optional[List[Range]]:
    r"""The same for one line of printable ASCII and ``\r``: fast, as a flood of redraws is mostly that."""
    parts = data.split(b"\r")
    widths = list(map(len, parts))
    widest = max(widths[1:])
    if widest >= _MAX_COLUMNS:
        return None
    starts = list(accumulate((width + 1 for width in widths), initial=-1))  # each part with the \r before it
    ranges: List[Range] = []
    covered, end, number = -1, len(data), len(parts)
    while number > 1 and covered < widest:
        number -= 1
        if widths[number] > covered:  # some of it is still to be seen
            covered = widths[number]
            if starts[number + 1] < end:
                ranges.append((starts[number + 1], end))
            end = starts[number]
    if starts[1] < end:
        ranges.append((starts[1], end))
    return ranges[::-1]


def _steps(data: bytes, column: Optional[int], *, odd: bool) -> List[_Step]:
    """The tokens, with the cursor's way. Kinds: text, keep, cr, lf, move, barrier, blind, end."""
    steps: List[_Step] = []
    row, blind = 0, odd
    for token in _TOKEN.finditer(data):
        kind, start = token.lastgroup or "", token.start()
        here = (start, row, column)
        lowest = highest = 0
        if kind == "text":
            kind, lowest, highest = _text(token.group(), column)
            column = None if column is None or kind == "barrier" else highest
        elif kind == "cr":
            column = 0
        elif kind == "lf":
            kind = "barrier" if blind else "lf"
            row, column, blind = row + 1, 0, False
            lowest = row
        elif kind == "bs":
            kind, column = "move", None if column is None else max(0, column - len(token.group()))
        elif kind == "final":
            kind, rows, column, lowest = _control(token["final"], token["arguments"], column)
            highest = _END
            row += rows
            if row < 0:  # the screen may begin here: nobody knows how far up this goes
                kind, row = "barrier", 0
        elif kind == "odd":
            kind, column, blind = "barrier", None, True
        else:
            kind = "move"
        steps.append(_Step(here[0], "blind" if blind else kind, here[1], here[2], lowest, highest))
    steps.append(_Step(len(data), "end", row, column))
    return steps


def _text(text: bytes, column: Optional[int]) -> Tuple[str, int, int]:
    if column is None:
        return "keep", 0, 0
    shown = _NO_COLUMNS.sub("", text.decode("utf-8", "replace"))
    end = column + columns(shown)
    if end >= _MAX_COLUMNS:
        return "barrier", 0, 0
    # A mark at the start changes what stands before it, and covers nothing.
    return ("keep" if leading_marks(shown) else "text"), column, end


def _control(final: bytes, arguments: bytes, column: Optional[int]) -> Tuple[str, int, Optional[int], int]:
    """``(kind, rows moved, new column, first erased column)`` of a control sequence."""
    if _MODE.search(arguments):
        return ("move" if arguments == b"?25" else "keep"), 0, column, 0
    first = arguments.split(b";")[0]
    number = int(first) if first.isdigit() else 0
    count = max(1, number)
    if final in b"BEFJHfsu":
        return "barrier", 0, None, 0
    if final == b"K":
        start = 0 if number == 2 else column if number == 0 else None  # noqa: PLR2004  (ECMA-48: the whole line)
        return ("keep" if start is None else "text"), 0, column, start or 0
    if final == b"A":
        return "move", -count, column, 0
    if final == b"G":
        column = count - 1
    elif final in b"CD" and column is not None:
        column = max(0, column + (count if final == b"C" else -count))
    if column is not None and column >= _MAX_COLUMNS:
        return "barrier", 0, None, 0
    return "move", 0, column, 0


def _droppable(steps: List[_Step]) -> List[bool]:
    """For each step, whether what it writes is written over later, and the row that it reaches reached again."""
    covered: Dict[int, Range] = {}
    deepest = -1
    found = []
    for step in reversed(steps):
        droppable = step.kind in ("cr", "move")
        if step.kind in ("barrier", "blind"):
            covered, deepest = {}, -1
        elif step.kind == "lf":
            droppable = step.lowest <= deepest
            deepest = max(deepest, step.lowest)
        elif step.kind == "text":
            lowest, highest = covered.get(step.row, (step.lowest, step.lowest))
            droppable = lowest <= step.lowest and step.highest <= highest
            touching = step.lowest <= highest and lowest <= step.highest
            if not droppable:
                new = (step.lowest, step.highest)
                covered[step.row] = (min(lowest, new[0]), max(highest, new[1])) if touching else new
        found.append(droppable)
    return found[::-1]


def _loops(steps: List[_Step], droppable: List[bool]) -> List[Range]:
    """Ways of the cursor back to where it was, on which nothing is written that stays."""
    ranges: List[Range] = []
    anchors: Dict[Tuple[int, Optional[int]], int] = {}
    for step, may_drop in zip(steps, droppable):  # noqa: B905  (Python 3.9 has no ``strict``)
        if step.kind == "blind":
            anchors.clear()
            continue
        keys: List[Tuple[int, Optional[int]]] = [(step.row, step.column)] if step.column is not None else []
        if step.kind in ("cr", "lf"):  # whatever the column is, it is left
            keys.append((step.row, None))
        known = [anchors[key] for key in keys if key in anchors]
        if known:
            start = min(known)
            while ranges and ranges[-1][0] >= start:
                ranges.pop()
            ranges.append((start, step.start))
            anchors = {key: at for key, at in anchors.items() if at <= start}
        else:
            anchors.update(dict.fromkeys(keys, step.start))
        if not may_drop:
            anchors.clear()
    return ranges


def _without_colors(data: bytes, start: int, end: int) -> List[Range]:
    """``[start, end)`` without the colours that are in force at its end."""
    parts = list(_COLORS.finditer(data, start, end)) if data.find(b"\x1b[", start, end) >= 0 else []
    resets = [number for number, part in enumerate(parts) if part[1].strip(b"0") == b""]
    edges = [start]
    for part in parts[resets[-1] if resets else 0 :]:
        edges += part.span()
    edges.append(end)
    return [(edges[at], edges[at + 1]) for at in range(0, len(edges), 2) if edges[at] < edges[at + 1]]


class Extent:
    """How many bytes of a stream are to be seen, and where its cursor is.

    Args:
        column: where the stream's next byte is shown; None where it is followed from its midst.
    """

    def __init__(self, column: Optional[int]) -> None:
        self.visible_bytes = 0
        self.column = column
        self.odd = False
        """A control string may be open."""
        self._rows = [0]
        self._row = 0
        self._at = 0
        self._rest = b""

    @property
    def between_tokens(self) -> bool:
        """Nothing is cut in two at the end of what came."""
        return not self._rest

    def advance(self, data: bytes) -> None:
        """Take the stream's next bytes, or what :func:`superseded` leaves of them."""
        data = self._rest + data
        cut = _CUT.search(data, max(0, len(data) - 80))
        size = len(data) - incomplete_suffix(data) if cut is None else cut.start()
        data, self._rest = data[:size], data[size:]
        if not _NOT_LINES.search(data):
            self._advance_plain(data)
            return
        for token in _TOKEN.finditer(data):
            self._token(token)
        self.column = _steps(data[max(data.rfind(b"\n"), 0) :], self.column, odd=False)[-1].column

    def _advance_plain(self, data: bytes) -> None:
        first, newline, others = data.partition(b"\n")
        self._write(len(first))
        text = first
        if newline:
            self.odd = False
            text = others[others.rfind(b"\n") + 1 :]
            self._line_feed()
            if len(others) > len(text):
                self.visible_bytes += len(others) - len(text)
                self._rows, self._row, self._at = [0], 0, 0
            self._write(len(text))
            self.column = 0
        if self.column is not None and text:
            kind, _, end = _text(text, self.column)
            self.column = None if kind == "barrier" else end

    def _token(self, token: "re.Match[bytes]") -> None:
        kind = token.lastgroup
        if kind == "text":
            self._write(len(token.group()))
        elif kind == "cr":
            self._at = 0
        elif kind == "lf":
            self._line_feed()
            self.odd = False
        elif kind == "bs":
            self._at = max(0, self._at - len(token.group()))
        elif kind == "odd":
            self.odd = True
        elif kind == "final":
            self._control(token["final"], token["arguments"], len(token.group()))

    def _control(self, final: bytes, arguments: bytes, size_bytes: int) -> None:
        first = arguments.split(b";")[0]
        count = max(1, int(first) if first.isdigit() else 0)
        if final == b"m":
            self._write(size_bytes)
        elif final == b"K" and first != b"1":
            kept = 0 if first == b"2" else min(self._at, self._rows[self._row])
            self.visible_bytes -= self._rows[self._row] - kept
            self._rows[self._row] = kept
        elif final in b"AF":
            self._row = max(0, self._row - count)
        elif final in b"BE":
            self._row = min(len(self._rows) - 1, self._row + count)
        elif final in b"CDG":
            self._at = max(0, {b"C": self._at + count, b"D": self._at - count, b"G": count - 1}[final])
        if final in b"EF":
            self._at = 0

    def _write(self, size_bytes: int) -> None:
        self._at += size_bytes
        self.visible_bytes += max(0, self._at - self._rows[self._row])
        self._rows[self._row] = max(self._at, self._rows[self._row])

    def _line_feed(self) -> None:
        self._row += 1
        self._at = 0
        if self._row == len(self._rows):
            self._rows.append(0)
            self.visible_bytes += 1
            if len(self._rows) > _REACH_ROWS:
                self._rows.pop(0)
                self._row -= 1
