"""What can be wrong with a variable, in one line."""

from __future__ import annotations


class VariableProblem(Exception):
    """A variable is missing, cannot be sent or loaded, or is too large; nothing was assigned."""


class Unsendable(Exception):
    """A value that has no open format. The text says what it is, and where in the variable."""


class TooLarge(Exception):
    """A variable is over the bound; ``size_bytes`` is its size as far as it is known."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.size_bytes = size_bytes


def first_line(error: BaseException) -> str:
    """An error's kind and the first line of its text."""
    said = str(error.args[0]) if error.args and isinstance(error.args[0], str) else str(error)
    text = next(iter(said.strip().splitlines()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def size_text(size_bytes: float) -> str:
    """A size for people, in the units of ``--max-bytes``."""
    for unit in ("bytes", "KiB", "MiB"):
        if size_bytes < 1000:  # noqa: PLR2004  (three digits)
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.3g} GiB"
