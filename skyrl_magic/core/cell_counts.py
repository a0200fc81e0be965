"""The numbers of Python cells: a session's kernel counts its own, and a notebook shows ``[n]`` beside each."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from skyrl_magic.core.protocol import KernelMessage

_STYLE = r"(?:\x1b\[[0-9;]*m)*"
_STYLE_OR_SPACE = r"(?:\x1b\[[0-9;]*m|\s)*"
#: How IPython begins a frame of a traceback, or a syntax error, that is in a cell, with its colours between. The text
#: is the container's: each part can match in one way only, so that the work grows with its length, not with its square.
_CELL = re.compile(rf"^({_STYLE_OR_SPACE}Cell{_STYLE} {_STYLE}In{_STYLE_OR_SPACE}\[{_STYLE})(\d{{1,9}})")


class CellCounts:
    """Which of this notebook's cells has which number in the sessions' kernels, as far as it has seen their ends."""

    def __init__(self) -> None:
        self._known: dict[str, dict[int, int]] = {}

    def learn(self, session: str, there: int, here: int) -> None:
        """The notebook's cell ``here`` is number ``there`` in the session's kernel.

        ``session`` is its sandbox's id, as sessions of two apps, or one after the other, may have one name.
        A kernel counts upwards: one that has begun anew knows nothing of the cells before.
        """
        known = self._known.setdefault(session, {})
        if known and there <= max(known):
            known.clear()
        known[there] = here

    def forget(self, session: str) -> None:
        """The session's kernel is another one now."""
        self._known.pop(session, None)

    def renumbered(self, session: str, error: KernelMessage) -> KernelMessage:
        """Jupyter's ``error`` message with this notebook's numbers; those of cells that it has not seen stay."""
        entries, known = error.content.get("traceback"), self._known.get(session, {})
        if not isinstance(entries, list):
            return error
        traceback = [_renumbered(str(entry), known) for entry in entries]
        return dataclasses.replace(error, content={**error.content, "traceback": traceback})


def _renumbered(entry: str, known: Mapping[int, int]) -> str:
    return _CELL.sub(lambda found: f"{found[1]}{known.get(int(found[2]), int(found[2]))}", entry, count=1)
