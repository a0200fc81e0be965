"""How many columns of a terminal text takes: what the agent leaves out and what a cell shows must agree on it.

A wide or full-width character (CJK, emoji) takes two columns, a mark that combines with the character before it, or a
format character, none, and any other one: Unicode's East Asian Width and general categories, as terminals use them. A
sequence of several emoji that some fonts draw as one takes the columns of all, as in most terminals.
"""

from __future__ import annotations

import re
import unicodedata

#: Text of single columns only, found quickly: letters and punctuation of the West, and what progress bars are made of.
_SINGLES = re.compile("[\x00-\u02ff\u2010-\u2027\u2190-\u2319\u2500-\u25fc\u2800-\u28ff]*")
_NO_COLUMN = frozenset({"Mn", "Me", "Cf"})
_SOFT_HYPHEN = "\xad"
_WIDE = frozenset({"W", "F"})


def columns_of(char: str) -> int:
    """The columns of one character that is no control character: 0, 1 or 2."""
    if unicodedata.combining(char) or (unicodedata.category(char) in _NO_COLUMN and char != _SOFT_HYPHEN):
        return 0
    return 2 if unicodedata.east_asian_width(char) in _WIDE else 1


def are_singles(text: str) -> bool:
    """Whether each character takes one column, as far as that is found quickly; False where it may not."""
    return text.isascii() or _SINGLES.fullmatch(text) is not None


def columns(text: str) -> int:
    """The columns of ``text``, which has no control characters."""
    return len(text) if are_singles(text) else sum(map(columns_of, text))


def leading_marks(text: str) -> int:
    """How many characters at the start of ``text`` take no column: they belong to what stands before it."""
    if not text or are_singles(text[0]):
        return 0
    return next((at for at, char in enumerate(text) if columns_of(char)), len(text))
