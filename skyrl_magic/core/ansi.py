"""What a terminal understands in a program's output, taken apart into tokens, in any chunking.

Output comes from a container and is not trusted: only the tokens below get through. Colours (SGR) are kept; cursor
moves and erasing within the visible lines are passed on as tokens; every other escape sequence (titles, links,
inline images, the alternate screen) and every other control character is dropped, as a terminal shows nothing for it.

Grammar: ECMA-48 (control sequences, 5.4) and the xterm control sequences document (OSC and the other strings).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

#: A token's kind is empty for text, one of ``\n \r \b``, or the final character of a control sequence; its value is
#: the text, or the sequence's parameters.
Token = tuple[str, str]

_TEXT = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f-\x9f]+")
# The bounds keep a sequence that never ends from being kept in memory; no real one comes near them.
_CSI = re.compile(r"\x1b\[([0-?]{0,64})([ -/]{0,4})([@-~])")
_CSI_BROKEN = re.compile(r"\x1b\[[0-?]{0,64}[ -/]{0,4}")
_ESCAPE = re.compile(r"\x1b[ -/]{0,4}[0-~]")
_CUT = re.compile(r"\x1b(?:\[[0-?]{0,64}[ -/]{0,4}|[ -/]{0,4})\Z")
_STRING_OPENERS = "]PX^_"
# A newline ends a string too: a program that never closes one must not make the rest of its output vanish.
_STRING_END = re.compile(r"[\x07\x18\x1a\x9c\n\x1b]")
_NEWLINES = "\n\x0b\x0c"
_MOVES = "\r\b"
_ALTERNATE_SCREENS = ("?47", "?1047", "?1049")
_PLACES = "Hf"
#: DECSC and DECRC, as the control sequences that do the same.
_CURSOR = {"\x1b7": "s", "\x1b8": "u"}


class Tokenizer:
    """Turns a stream's bytes into tokens. Bytes that are no UTF-8 become U+FFFD; what is cut waits for the rest."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self._in_string = False
        self.full_screen = False
        """Whether the program draws on a whole screen: it asked for the alternate one, or for a place below the top."""

    def feed(self, data: bytes, *, final: bool = False) -> Iterator[Token]:
        """Yield the tokens that are complete now. With ``final``, an incomplete character becomes U+FFFD."""
        text = self._pending + self._decoder.decode(data, final)
        self._pending = ""
        position = 0
        while position < len(text):
            if self._in_string:
                position = self._skip_string(text, position)
                continue
            run = _TEXT.match(text, position)
            if run:
                yield "", run.group()
                position = run.end()
                continue
            char = text[position]
            if char == "\x1b":
                token, position = self._escape(text, position)
                if token:
                    yield token
                continue
            position += 1
            if char in _NEWLINES:
                yield "\n", ""
            elif char in _MOVES:
                yield char, ""

    def reset(self) -> None:
        """Forget what is incomplete: the next bytes do not follow the last ones."""
        self._decoder.reset()
        self._pending = ""
        self._in_string = False

    def _escape(self, text: str, position: int) -> tuple[Token | None, int]:
        """The token of the escape sequence at ``position``, if it has one, and where the next begins."""
        sequence = _CSI.match(text, position)
        if sequence:
            parameters, intermediates, final = sequence.groups()
            # Private (`?25l`) and intermediate (`2 q`) forms set modes of a terminal; none of them shows anything.
            private = bool(intermediates) or parameters[:1] in tuple("<=>?")
            self.full_screen |= _is_full_screen(parameters, final)
            return (None if private else (final, parameters)), sequence.end()
        if _CUT.match(text, position):
            self._pending = text[position:]
            return None, len(text)
        opener = text[position + 1]
        if opener in _STRING_OPENERS:
            self._in_string = True
            return None, position + 2
        other = (_CSI_BROKEN if opener == "[" else _ESCAPE).match(text, position)
        kind = _CURSOR.get(text[position : position + 2])
        return (kind, "") if kind else None, other.end() if other else position + 1

    def _skip_string(self, text: str, position: int) -> int:
        end = _STRING_END.search(text, position)
        if end is None:
            return len(text)
        at = end.start()
        if text[at] == "\x1b":
            if at + 1 == len(text):
                self._pending = "\x1b"
                return len(text)
            self._in_string = False
            return at + 2 if text[at + 1] == "\\" else at
        self._in_string = False
        return at if text[at] == "\n" else at + 1


def _is_full_screen(parameters: str, final: str) -> bool:
    if final == "h":
        return parameters in _ALTERNATE_SCREENS
    row = parameters.partition(";")[0]
    return final in _PLACES and row.isdecimal() and int(row) > 1


_SWITCHES = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "strike"}
_OFF = {22: ("bold", "dim"), 23: ("italic",), 24: ("underline",), 27: ("inverse",), 29: ("strike",)}
#: 58 is an underline's colour, which no front end shows: its numbers are no attributes of the text.
_EXTENDED = {38: "foreground", 48: "background", 58: ""}
#: How many numbers follow 38, 48 or 58: ``5;n`` or ``2;r;g;b``.
_COLOR_LENGTHS = {5: 2, 2: 4}
_COLOR_VALUES = range(256)
_FOREGROUNDS = {*range(30, 38), *range(90, 98)}
_BACKGROUNDS = {*range(40, 48), *range(100, 108)}
_DEFAULT = {39: "foreground", 49: "background"}


class Pen:
    """The text attributes in force, by the SGR sequences seen so far."""

    def __init__(self) -> None:
        self._attributes: dict[str, str] = {}
        self.style = ""
        """The attributes as the parameters of one SGR sequence; empty for plain text."""

    def apply(self, parameters: str) -> None:
        """Take one SGR sequence's parameters. Unknown ones change nothing."""
        codes = _codes(parameters)
        while codes:
            code = codes.pop(0)
            if code == 0:
                self._attributes.clear()
            elif code in _SWITCHES:
                self._attributes[_SWITCHES[code]] = str(code)
            elif code in _OFF:
                for name in _OFF[code]:
                    self._attributes.pop(name, None)
            elif code in _EXTENDED:
                self._extended(_EXTENDED[code], code, codes)
            elif code in _DEFAULT:
                self._attributes.pop(_DEFAULT[code], None)
            elif code in _FOREGROUNDS:
                self._attributes["foreground"] = str(code)
            elif code in _BACKGROUNDS:
                self._attributes["background"] = str(code)
        self.style = ";".join(self._attributes.values())

    def _extended(self, name: str, code: int, codes: list[int]) -> None:
        """A colour of 256 (``5;n``) or of 24 bits (``2;r;g;b``); ``codes`` loses what belongs to it."""
        color = _take_color(codes)
        if name and color and max(color) in _COLOR_VALUES:
            self._attributes[name] = ";".join(str(value) for value in (code, *color))


def _take_color(codes: list[int]) -> list[int]:
    """Remove a colour's numbers from the front of ``codes``; empty where they are none."""
    length = _COLOR_LENGTHS.get(codes[0] if codes else 0)
    if length is None:
        codes.clear()  # whatever this is, its numbers are no attributes
        return []
    color, codes[:length] = codes[:length], []
    return color if len(color) == length else []


def _codes(parameters: str) -> list[int]:
    codes: list[int] = []
    for field in parameters.split(";"):
        first, *rest = [int(part) if part else None for part in field.split(":")]
        codes.append(first or 0)
        if first in _EXTENDED:
            if len(rest) >= _COLOR_LENGTHS[2] + 1:
                del rest[1]  # `38:2:<colour space>:r:g:b`, mostly with an empty colour space
            codes.extend(value or 0 for value in rest)
        # Other subparameters are variants (`4:3`, a curly underline).
    return codes


def render(runs: list[tuple[str, str]]) -> str:
    """Text with SGR sequences, of ``(style, text)`` runs. It ends without attributes in force."""
    parts: list[str] = []
    current = ""
    for style, text in runs:
        if style != current:
            if current:
                parts.append("\x1b[0m")
            if style:
                parts.append(f"\x1b[{style}m")
            current = style
        parts.append(text)
    if current:
        parts.append("\x1b[0m")
    return "".join(parts)


def harmless(token: Token) -> str:
    """The token as a real terminal takes it; empty for control sequences that reach beyond the current lines."""
    kind, value = token
    if not kind:
        return value
    if kind in "\n\r\b":
        return kind
    return f"\x1b[{value}{kind}" if kind in "mKABCDEFG" else ""
