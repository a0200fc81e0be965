"""Patterns of ``.skyrlignore``, which are gitignore's, matched in a bounded time whatever they say.

They come with the checkout, so a stranger may have written them. No pattern becomes one regular expression: what lies
between two stars has a fixed length, and is looked for from left to right, which takes at most the product of the
lengths of name and pattern. Work is counted, and has a bound for a whole scan.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

#: The file's own bounds: its size in bytes, its patterns, and a pattern's characters.
MAX_BYTES = 64 * 1024
MAX_PATTERNS = 1_000
MAX_PATTERN_CHARS = 4_096
#: So many names are compared with patterns in one scan; a long pair counts several times. About a microsecond each.
MAX_COMPARISONS = 20_000_000
_CHARS_OF_ONE = 1_024
_ANY_FOLDERS = "**"
_SPECIAL = frozenset("*?[\\")


class _NeverFitsError(ValueError):
    """A bracket of the pattern does not close: gitignore passes such a line over."""


class _Glob:
    """A pattern for one name, as in ``model-?.[bp]in``."""

    def __init__(self, text: str) -> None:
        self.length = len(text)
        self._literal = None if _SPECIAL & set(text) else text
        pieces = [] if self._literal is not None else _pieces(text)
        self._pieces = [(re.compile(pattern, re.DOTALL), width) for pattern, width in pieces]

    def matches(self, name: str) -> bool:
        if self._literal is not None:
            return name == self._literal
        first, first_width = self._pieces[0]
        if len(self._pieces) == 1:
            return len(name) == first_width and first.match(name) is not None
        last, last_width = self._pieces[-1]
        position, end = first_width, len(name) - last_width
        if position > end or first.match(name) is None or last.match(name, end) is None:
            return False
        for piece, _ in self._pieces[1:-1]:  # the leftmost place is never a worse one
            found = piece.search(name, position, end)
            if found is None:
                return False
            position = found.end()
        return True


@dataclass(frozen=True)
class _Rule:
    """One line: what it says of entries with a name like ``glob`` in a folder like ``folders``."""

    folders: tuple[_Glob | None, ...]
    """None stands for any number of folders."""
    glob: _Glob
    only_folders: bool
    keeps: bool


class Ignore:
    """The patterns of a file; each scan takes a new one.

    Args:
        text: of the file.

    Raises:
        ValueError: a pattern is wrong, or there are too many; the text says which and why.
    """

    def __init__(self, text: str) -> None:
        rules = [rule for number, line in enumerate(text.splitlines(), 1) if (rule := _rule(line, number)) is not None]
        if len(rules) > MAX_PATTERNS:
            raise ValueError(f"it has more than {MAX_PATTERNS:,} patterns")
        self._last_first = rules[::-1]
        self._left = MAX_COMPARISONS

    def in_folder(self, folders: Sequence[str]) -> FolderIgnore:
        """What the patterns say of the entries of a folder, given by its names from the root. Raises ValueError."""
        self._spend(len(self._last_first))
        return FolderIgnore(self, [rule for rule in self._last_first if self._leads_to(rule.folders, folders)])

    def compared(self, glob: _Glob, name: str) -> bool:
        """Whether a name fits. Raises ValueError: all comparisons of a scan are used up."""
        self._spend(1 + glob.length * len(name) // _CHARS_OF_ONE)
        return glob.matches(name)

    def _spend(self, comparisons: int) -> None:
        self._left -= comparisons
        if self._left < 0:
            raise ValueError("its patterns take too long for so many files: give it fewer or shorter ones")

    def _leads_to(self, wanted: tuple[_Glob | None, ...], folders: Sequence[str]) -> bool:
        """Whether a path fits: when it does not go on, the newest ``**`` takes one folder more."""
        at = position = 0
        star, star_position = -1, 0
        while position < len(folders):
            here = wanted[at] if at < len(wanted) else None
            if at < len(wanted) and here is None:
                star, star_position = at, position
                at += 1
            elif here is not None and self.compared(here, folders[position]):
                at += 1
                position += 1
            elif star >= 0:
                star_position += 1
                at, position = star + 1, star_position
            else:
                return False
        return all(rest is None for rest in wanted[at:])


class FolderIgnore:
    """The patterns that can say something of a folder's entries, the last one first."""

    def __init__(self, ignore: Ignore, rules: list[_Rule]) -> None:
        self._ignore = ignore
        self._rules = rules

    def ignores(self, name: str, *, is_folder: bool) -> bool:
        """Whether an entry of the folder is left out. Raises ValueError: as :meth:`Ignore.compared`."""
        for rule in self._rules:
            if (is_folder or not rule.only_folders) and self._ignore.compared(rule.glob, name):
                return not rule.keeps
        return False


def _rule(line: str, number: int) -> _Rule | None:
    """The rule of a line; None for an empty one, and for a comment. Raises ValueError."""
    pattern = line if line.endswith("\\ ") else line.rstrip()
    if not pattern or pattern.startswith("#") or pattern in ("/", "!", "!/"):
        return None
    if len(pattern) > MAX_PATTERN_CHARS:
        raise ValueError(f"line {number} is longer than {MAX_PATTERN_CHARS:,} characters")
    keeps = pattern.startswith("!")
    pattern = pattern[keeps:]
    only_folders = pattern.endswith("/")
    names = pattern[: len(pattern) - only_folders].split("/")
    if len(names) == 1:
        names.insert(0, _ANY_FOLDERS)
    elif not names[0]:
        del names[0]
    try:
        globs = [None if name == _ANY_FOLDERS else _Glob(name) for name in names]
    except _NeverFitsError:
        return None
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None
    *folders, last = globs
    if last is None:  # what lies below, at any depth
        folders.append(None)
        last = _Glob("*")
    return _Rule(tuple(folders), last, only_folders, keeps)


def _pieces(text: str) -> list[tuple[str, int]]:
    """What stands between the stars: expressions of a fixed width, and that width. Raises ValueError."""
    pieces: list[tuple[str, int]] = []
    parts: list[str] = []
    width = 0
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == "*":
            pieces.append(("".join(parts), width))
            parts, width = [], 0
            continue
        width += 1
        if character == "?":
            parts.append(".")
        elif character == "[":
            part, position = _one_of(text, position)
            parts.append(part)
        elif character == "\\":
            if position == len(text):
                raise ValueError("a backslash ends the pattern")
            parts.append(re.escape(text[position]))
            position += 1
        else:
            parts.append(re.escape(character))
    return [*pieces, ("".join(parts), width)]


def _one_of(text: str, start: int) -> tuple[str, int]:
    """The expression of ``[…]``, whose text begins at ``start``, and where it ends. Raises ValueError."""
    position = start
    negated = text[position : position + 1] in ("!", "^")
    position += negated
    members: list[str] = []
    while position < len(text) and (text[position] != "]" or not members):
        first, position = _member(text, position)
        last = first
        if text[position : position + 1] == "-" and text[position + 1 : position + 2] not in ("", "]"):
            last, position = _member(text, position + 1)
        if last < first:
            raise ValueError(f"{first}-{last} in brackets goes backwards")
        members.append(f"{re.escape(first)}-{re.escape(last)}")
    if position >= len(text):
        raise _NeverFitsError
    return f"[{'^' * negated}{''.join(members)}]", position + 1


def _member(text: str, position: int) -> tuple[str, int]:
    """A character in brackets, and where the next one is."""
    if text[position] == "\\" and position + 1 < len(text):
        position += 1
    return text[position], position + 1
