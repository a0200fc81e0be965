"""Tab and Shift-Tab inside a Python cell: the session's kernel is asked, as it knows the names there.

ipykernel has no hook for this, so its two methods are wrapped in the notebook's kernel; outside of Python cells they do
what they did before. Where the answer takes too long (the session's kernel executes a cell, say), Tab has the names of
the cell's text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from skyrl_magic.core.errors import SkyRLMagicError

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from skyrl_magic.ui.magics import SkyRLMagic

#: How long a key press waits for the session's kernel, in seconds.
BUDGET_S = 0.2
#: A cell's first line, of a magic that may run it in the session's Python kernel.
_FIRST_LINE = r"\s*%%(?P<name>skyrl_python|skyrl_modal)\b[ \t]*(?P<line>[^\n]*)\n"

_NAME = r"[^\W\d]\w*"

Reply = dict[str, Any]
#: Asks the kernel that a line's options mean: ``ask(options, msg_type, content)``; None where there is no answer.
Ask = Callable[[str, str, Mapping[str, Any]], Reply | None]


def complete(code: str, cursor: int, ask: Ask) -> Reply | None:
    """The completions at ``cursor`` (in characters), as Jupyter's ``complete_reply``; None where there are none.

    They are the session's, or without an answer the names in the cell.
    """
    found = _python_cell(code, cursor)
    if found is None:
        return None
    options, start = found
    reply = ask(options, "complete_request", {"code": code[start:], "cursor_pos": cursor - start})
    if reply is None or reply.get("status") != "ok":
        return _names_in_cell(code, cursor, start)
    if not reply.get("matches"):
        return None
    reply["cursor_start"], reply["cursor_end"] = reply["cursor_start"] + start, reply["cursor_end"] + start
    for item in (reply.get("metadata") or {}).get("_jupyter_types_experimental", ()):
        item["start"], item["end"] = item["start"] + start, item["end"] + start
    return reply


def _names_in_cell(code: str, cursor: int, start: int) -> Reply | None:
    """The cell's names that go on as what stands at ``cursor``; behind a dot those that are behind one elsewhere."""
    match = re.search(rf"(?P<dot>\.?)(?P<begun>{_NAME}|)\Z", code[start:cursor])
    if match is None or not match.group():
        return None
    dot, begun = match["dot"], match["begun"]
    elsewhere = code[start : cursor - len(begun)] + " " + code[cursor:]
    names = re.findall(rf"(?<=\.){_NAME}" if dot else rf"(?<![\w.]){_NAME}", elsewhere)
    found = sorted({name for name in names if name.startswith(begun)} - {begun})
    if not found:
        return None
    ends = {"cursor_start": cursor - len(begun), "cursor_end": cursor}
    return {"status": "ok", "matches": found, "metadata": {}, **ends}


def inspect(code: str, cursor: int, detail_level: int, ask: Ask) -> Reply | None:
    """What the session's kernel says of the name at ``cursor``, as Jupyter's ``inspect_reply``; None for no answer."""
    found = _python_cell(code, cursor)
    if found is None:
        return None
    options, start = found
    content = {"code": code[start:], "cursor_pos": cursor - start, "detail_level": detail_level}
    reply = ask(options, "inspect_request", content)
    return reply if reply is not None and reply.get("status") == "ok" else None


def _python_cell(code: str, cursor: int) -> tuple[str, int] | None:
    """The options of a Python cell's first line, and where its own code begins, if the cursor is in that."""
    match = re.match(_FIRST_LINE, code)
    if match is None or cursor < match.end():
        return None
    line = match["line"]
    if match["name"] == "skyrl_modal" and "--python" not in line.split():
        return None
    return line, match.end()


def install(shell: InteractiveShell, magics: SkyRLMagic) -> None:
    """Wrap the methods of the notebook's kernel; without one there is nothing to do."""
    kernel = getattr(shell, "kernel", None)
    if kernel is None or "do_complete" in vars(kernel):
        return
    do_complete, do_inspect = kernel.do_complete, kernel.do_inspect

    def ask(options: str, msg_type: str, content: Mapping[str, Any]) -> Reply | None:
        try:
            return magics.ask_kernel(options, msg_type, content, BUDGET_S)
        except SkyRLMagicError:
            return None

    def wrapped_complete(code: str, cursor_pos: int | None) -> Any:
        cursor = len(code) if cursor_pos is None else cursor_pos
        return complete(code, cursor, ask) or do_complete(code, cursor_pos)

    def wrapped_inspect(code: str, cursor_pos: int, detail_level: int = 0, omit_sections: Any = ()) -> Any:
        return inspect(code, cursor_pos, detail_level, ask) or do_inspect(code, cursor_pos, detail_level, omit_sections)

    kernel.do_complete, kernel.do_inspect = wrapped_complete, wrapped_inspect


def uninstall(shell: InteractiveShell) -> None:
    """Undo :func:`install`."""
    kernel = getattr(shell, "kernel", None)
    for name in ("do_complete", "do_inspect"):
        if kernel is not None:
            vars(kernel).pop(name, None)
