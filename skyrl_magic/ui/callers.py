"""The code that calls a magic: its variables, and whether it uses what the magic returns.

IPython turns ``r = %magic x`` into ``r = get_ipython().run_line_magic('magic', 'x')``, also inside a function that a
later cell calls: no cell has its text then, and the calling frame knows all the same.
"""

from __future__ import annotations

import dis
import sys
from types import FrameType
from typing import Any

_SHELL_MODULE = "IPython.core.interactiveshell"
_ENTRIES = frozenset({"run_line_magic", "run_cell_magic"})
#: What ``%time`` and ``%%time`` call their own code; what that returns, they return.
_TIMED = "<timed eval>"
#: Instructions that do nothing, between a call and what becomes of its value.
_NOTHING = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PRECALL"})
#: Instructions that drop a value, or hand it to the display hook: the last one of a cell, which is shown already.
_DROPS = frozenset({"POP_TOP", "PRINT_EXPR"})
_PRINT = ("CALL_INTRINSIC_1", 1)


def calling_frame() -> FrameType | None:
    """The frame whose code calls the magic that runs; None where a magic is called as a plain method."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  (as inspect.currentframe does, and IPython)
    while frame is not None and not _is_entry(frame):
        if _module(frame).partition(".")[0] not in ("skyrl_magic", "decorator"):
            return None
        frame = frame.f_back
    return _behind(frame)


def value_is_used(frame: FrameType | None) -> bool:
    """Whether the code of a frame that :func:`calling_frame` has found uses the value of its call."""
    while frame is not None and frame.f_code.co_filename == _TIMED:
        while frame is not None and not _is_entry(frame):
            frame = frame.f_back
        frame = _behind(frame)
    if frame is None:
        return False
    for step in dis.get_instructions(frame.f_code):
        if step.offset > frame.f_lasti and step.opname not in _NOTHING:
            return step.opname not in _DROPS and (step.opname, step.arg) != _PRINT
    return False


def variables_of(frame: FrameType | None, namespace: dict[str, Any]) -> dict[str, Any]:
    """What the names in a frame's code mean: the notebook's ``namespace``, and before it the function's own ones."""
    if frame is None or frame.f_globals is frame.f_locals:
        return namespace
    return {**namespace, **frame.f_locals}


def _is_entry(frame: FrameType) -> bool:
    return frame.f_code.co_name in _ENTRIES and _module(frame) == _SHELL_MODULE


def _behind(frame: FrameType | None) -> FrameType | None:
    """The caller of IPython's own entry to magics; ``magic`` is an older one above it."""
    while frame is not None and _module(frame) == _SHELL_MODULE:
        frame = frame.f_back
    return frame


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
