"""``%%skyrl_python -h`` alone in a cell: IPython calls no cell magic without a body, so the line's magic is called."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_FIRST_LINE = r"%%skyrl_(modal|python)[ \t]"


def as_line_magic(lines: list[str]) -> list[str]:
    """The lines of a cell, where it is nothing but a request for help with one ``%`` less."""
    if not lines or any(line.strip() for line in lines[1:]) or not re.match(_FIRST_LINE, lines[0]):
        return lines
    asks = not {"-h", "--help"}.isdisjoint(lines[0].split())
    return [lines[0][1:], *lines[1:]] if asks else lines


def install(shell: InteractiveShell) -> None:
    """Transform the cells of ``shell``."""
    uninstall(shell)
    shell.input_transformers_cleanup.append(as_line_magic)


def uninstall(shell: InteractiveShell) -> None:
    """Undo :func:`install`."""
    if as_line_magic in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(as_line_magic)
