"""Models that the display's tests compare with: a terminal, written for clearness only, and a notebook's cell."""

from __future__ import annotations

import dataclasses
import re
import unicodedata

from skyrl_magic.core.cell_record import CellRecord, ShownDisplay, ShownText
from skyrl_magic.core.display_queue import Action, ShowText, StreamText, UpdateText

_TOKENS = re.compile(
    r"\x1b\[(?P<params>[0-9;]*)(?P<final>[A-Za-z])|(?P<dropped>\x1b\][^\x07\n]*\x07|\x1b\[\?[0-9;]*[hl]|[\x00\x07])"
    r"|\x1b(?P<cursor>[78])|(?P<char>.)",
    re.DOTALL,
)


class Terminal:
    """An endless terminal that takes the whole text at once: one cell for each column, with its character and marks.

    The right half of a wide character is a cell without text.
    """

    def __init__(self, text: str) -> None:
        self.lines: list[list[tuple[str, str]]] = [[]]
        self._row = self._column = 0
        self._color = ""
        self._saved: tuple[int, int, str] | None = None
        self._first: dict[int, str] = {}
        """Marks that no character stands before, by row."""
        for token in _TOKENS.finditer(text):
            if token["cursor"]:
                self._keep_cursor(save=token["cursor"] == "7")
            elif token["final"]:
                self._sequence(token["final"], token["params"])
            elif token["char"]:
                self._character(token["char"])

    def plain(self) -> list[str]:
        """The lines without colours and without blanks at their ends."""
        texts = ["".join(char for char, _ in line) for line in self.lines]
        return [(self._first.get(row, "") + text).rstrip() for row, text in enumerate(texts)]

    def _character(self, char: str) -> None:
        if char == "\n":
            self._row, self._column = self._row + 1, 0
            if self._row == len(self.lines):
                self.lines.append([])
        elif char == "\r":
            self._column = 0
        elif char == "\b":
            self._column = max(0, self._column - 1)
        elif unicodedata.category(char) in ("Mn", "Cf"):
            self._mark(char)
        else:
            self._put([(char, self._color), *[("", self._color)] * (unicodedata.east_asian_width(char) in "WF")])

    def _put(self, cells: list[tuple[str, str]]) -> None:
        line = self.lines[self._row]
        line.extend([(" ", "")] * (self._column - len(line)))
        end = self._column + len(cells)
        self._split(end)
        self._split(self._column)
        line[self._column : end] = cells
        self._column = end

    def _split(self, column: int) -> None:
        """Something else is on one side of that column: of a wide character across it, blanks are left."""
        line = self.lines[self._row]
        if column < len(line) and not line[column][0]:
            line[column - 1 : column + 1] = [(" ", "")] * 2

    def _mark(self, char: str) -> None:
        line = self.lines[self._row]
        if not self._column:
            if not line:
                self._first[self._row] = self._first.get(self._row, "") + char
            return
        line.extend([(" ", "")] * (self._column - len(line)))
        at = self._column - 1
        at -= not line[at][0]
        line[at] = (line[at][0] + char, line[at][1])

    def _keep_cursor(self, *, save: bool) -> None:
        if save:
            self._saved = self._row, self._column, self._color
        elif self._saved:
            self._row, self._column, self._color = self._saved

    def _sequence(self, final: str, params: str) -> None:
        number = int(params.split(";", maxsplit=1)[0] or 0)
        line = self.lines[self._row]
        if final == "m":
            self._color = "" if params in {"", "0"} else params
        elif final in "su":
            self._keep_cursor(save=final == "s")
        elif final == "A":
            self._row = max(0, self._row - max(1, number))
        elif final == "C":
            self._column += max(1, number)
        elif final == "D":
            self._column = max(0, self._column - max(1, number))
        elif final == "G":
            self._column = max(1, number) - 1
        elif final == "K" and number == 0:
            self._split(self._column)
            del line[self._column :]
        elif final == "K" and number == 1:
            self._split(self._column + 1)
            count = min(self._column + 1, len(line))
            line[:count] = [] if count == len(line) else [(" ", "")] * count
        elif final == "K" and number == 2:
            line.clear()


def without_colors(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@dataclasses.dataclass
class Output:
    """One output of a cell; ``kind`` is a stream's name or a display's id."""

    kind: str
    text: str
    stream: str


class Cell:
    """What JupyterLab makes of the messages; nbconvert's rule for ``\\r`` beside it, as a saved notebook is shown.

    Args:
        record: with which it is filled again; None where it cannot be.
    """

    def __init__(self, record: CellRecord | None = None) -> None:
        self.record = record
        self.filled = 0
        """How often it was filled again."""
        self.outputs: list[Output] = []
        self.messages: list[tuple[float, Action]] = []

    def take(self, actions: list[Action], now_s: float = 0.0) -> None:
        for action in actions:
            self.messages.append((now_s, action))
            if isinstance(action, StreamText):
                assert action.text
                self._write(action.stream, action.text)
            elif isinstance(action, ShowText | UpdateText) and action.instead_of:
                self._fill_again(action.stream, action.instead_of.lines)
            if isinstance(action, ShowText):
                self._show(action.display_id, action.text, action.stream)
            elif isinstance(action, UpdateText):
                (shown,) = [output for output in self.outputs if output.kind == action.display_id]
                shown.text = action.text
                if self.record:
                    self.record.update(action.display_id, {action.stream: action.text})

    def _write(self, stream: str, text: str) -> None:
        if self.record:
            self.record.write(stream, text)
        if self.outputs and self.outputs[-1].kind == stream:
            self.outputs[-1].text += text
        else:
            self.outputs.append(Output(stream, text, stream))

    def _show(self, display_id: str, text: str, stream: str) -> None:
        if self.record:
            self.record.show(display_id, {stream: text})
        assert all(output.kind != display_id for output in self.outputs)
        self.outputs.append(Output(display_id, text, stream))

    def _fill_again(self, stream: str, lines: str) -> None:
        assert self.record
        outputs = self.record.without(stream, lines)
        assert outputs is not None
        self.filled += 1
        self.outputs = []
        self.record.fill([])
        for shown in outputs:
            if isinstance(shown, ShownText):
                self._write(shown.stream, shown.text)
            elif isinstance(shown, ShownDisplay):
                ((of_stream, text),) = shown.data.items()
                self._show(shown.display_id, text, of_stream)

    def in_jupyterlab(self, stream: str) -> list[str]:
        """The lines of one stream's outputs, as JupyterLab overlays them."""
        return self._lines(stream, _overlay)

    def in_nbconvert(self, stream: str) -> list[str]:
        """The lines of one stream's outputs, as nbconvert replaces them."""
        return self._lines(stream, lambda text: re.sub(r".*\r(?=[^\n])", "", text))

    def _lines(self, stream: str, apply: object) -> list[str]:
        assert callable(apply)
        text = ""
        for output in self.outputs:
            if output.stream == stream:
                text += apply(output.text) if output.kind == stream else output.text + "\n"
        return [line.rstrip() for line in without_colors(text).split("\n")]


def _overlay(text: str) -> str:
    lines = []
    for line in text.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown)
    return "\n".join(lines)
