"""One row of the table of cells."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A cell.

    Args:
        name: of the test.
        text: the cell; indented as its surroundings are.
        answers: to its questions.
        timings: it shows times.
        unordered: stdout and stderr, or threads, come by ways whose order is open; the lines are what is compared.
        differs: the name of its entry in :data:`differences.DIFFERENCES`.
        remote: where it differs, what it leaves through the magic: a stream's name, ``display`` or ``error``, with the
            text.
    """

    name: str
    text: str
    answers: tuple[str, ...] = ()
    timings: bool = False
    unordered: bool = False
    differs: str = ""
    remote: tuple[tuple[str, str], ...] = ()

    @property
    def code(self) -> str:
        """What stands in the cell."""
        return textwrap.dedent(self.text).strip("\n")
