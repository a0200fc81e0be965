"""``{…}`` in the value of an option: which of them are Python, and where a value that has one ends.

A pair of braces is Python where an expression with a name in it stands between them: ``{lr}``, ``{run.id}``,
``{2 * lr:.0e}``. Others stay as they were written, with their quotes (``{"a": 1}``, ``{}``, ``x{3}``), ``{{`` and the
``}}`` that closes it are braces, and a dollar sign is never looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

#: The text for an expression, which is given with its format; raises OptionError.
Evaluate = Callable[[str], str]
#: Characters of nobody's language, one of which stands for an expression while quotes are taken off.
_PLACES = range(0xE000, 0xF8FF)
_EXPRESSION, _KEPT = "expression", "kept"
#: No value is looked through for longer than this, in characters.
_MAX_CHARS = 100_000


def expanded(word: str, evaluate: Evaluate, unquote: Callable[[str], str]) -> str:
    """A value without its quotes and with its expressions' texts, whatever quotes and spaces those have.

    Args:
        word: as it was written.
        evaluate: gives an expression's text. Raises OptionError.
        unquote: takes the quotes off. Raises OptionError.
    """
    if "{" not in word:
        return unquote(word)
    place = next(chr(code) for code in _PLACES if chr(code) not in word)
    parts = [*_parts(word)]
    first, *rest = unquote("".join(place if kind else text for text, kind in parts)).split(place)
    texts = [evaluate(text) if kind == _EXPRESSION else text for text, kind in parts if kind]
    return first + "".join(text + literal for text, literal in zip(texts, rest, strict=True))


def end_of_braces(text: str, start: int, end: int) -> int:
    """Where the word ``text[start:end]`` ends when a pair of braces that it opens holds it together over its blanks."""
    at = start
    while at < end:
        if text[at] == "{":
            closed = _closing(text, at)
            if closed < 0:
                return end
            at = closed
            if at >= end:
                blank = re.compile(r"\s|$").search(text, at + 1)
                end = len(text) if blank is None else blank.start()
        at += 1
    return end


def _parts(word: str) -> Iterator[tuple[str, str]]:
    """Texts in their order, each with what it is: expressions, what is kept as it stands, and else text with quotes."""
    at, doubled, text, quote = 0, 0, "", ""
    while at < len(word):
        char, pair = word[at], word[at : at + 2]
        took, end, kind = char, at + 1, ""
        if char == "\\" and quote != "'":
            took, end = pair, at + 2
        elif char in "'\"" and quote in ("", char):
            quote = "" if quote else char
        elif pair == "{{" or (pair == "}}" and doubled):
            doubled += 1 if pair == "{{" else -1
            end = at + 2
        elif char == "{" and (closed := _closing(word, at)) >= 0:
            end = closed + 1
            took, kind = _braces(word[at + 1 : closed], quote)
        if kind:
            yield text, ""
            yield took, kind
            text = ""
        else:
            text += took
        at = end
    yield text, ""


def _braces(inside: str, quote: str) -> tuple[str, str]:
    """What a pair of braces stands for, and what that is."""
    field = re.sub(r"\\([\"\\$`])", r"\1", inside) if quote == '"' else inside
    if expression_in(field):
        return field, _EXPRESSION
    return f"{{{inside}}}", "" if quote else _KEPT


def _closing(text: str, at: int) -> int:
    """The place of the brace that closes the one at ``at``; -1 without one."""
    depth = 0
    for place in range(at, min(len(text), at + _MAX_CHARS)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return place
    return -1


def expression_in(field: str) -> str:
    """The expression of ``field``, without its format; empty where it is none that has a name in it."""
    import ast

    ends = [len(field), *(match.start() for match in re.finditer(r"[:!]", field))]
    for end in ends:
        source = field[:end].strip()
        try:
            tree = ast.parse(source, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        return field[:end] if any(isinstance(node, ast.Name) for node in ast.walk(tree)) else ""
    return ""
