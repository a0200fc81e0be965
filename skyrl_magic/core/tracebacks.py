"""An error of a Python cell within what a notebook can hold: its values may be megabytes."""

from __future__ import annotations

import dataclasses

from skyrl_magic.core.protocol import KernelMessage

#: So much of a traceback is shown, in characters, and so much of one of its entries, of which the last is the error.
_MAX_CHARS = 200_000
_MAX_ENTRY_CHARS = 50_000
_MAX_NAME_CHARS = 1_000
#: The share of the beginning where something is left out: the end says more.
_HEAD = 0.4


def bounded_error(error: KernelMessage, run_id: str) -> KernelMessage:
    """Jupyter's ``error`` message with the middle of what is too long left out; the run's log has it.

    Args:
        error: from a container: its fields may be anything.
        run_id: for the line that says where the rest is.
    """
    content = dict(error.content)
    content["ename"] = str(content.get("ename") or "")[:_MAX_NAME_CHARS]
    content["evalue"] = _cut(str(content.get("evalue") or ""), run_id)
    entries = content.get("traceback")
    traceback = [_cut(str(entry), run_id) for entry in entries] if isinstance(entries, list) else []
    content["traceback"] = _without_middle(traceback, run_id)
    return dataclasses.replace(error, content=content)


def _cut(text: str, run_id: str) -> str:
    left_out = len(text) - _MAX_ENTRY_CHARS
    if left_out <= 0:
        return text
    head = int(_MAX_ENTRY_CHARS * _HEAD)
    return f"{text[:head]}\x1b[0m\n{_line(left_out, run_id)}\n{text[head + left_out :]}"


def _without_middle(entries: list[str], run_id: str) -> list[str]:
    size = sum(map(len, entries))
    if size <= _MAX_CHARS:
        return entries
    head: list[str] = []
    tail: list[str] = []
    while entries and sum(map(len, head)) + len(entries[0]) <= _MAX_CHARS * _HEAD:
        head.append(entries.pop(0))
    while entries and sum(map(len, tail)) + len(entries[-1]) <= _MAX_CHARS * (1 - _HEAD):
        tail.insert(0, entries.pop())
    return [*head, _line(sum(map(len, entries)), run_id), *tail]


def _line(chars: int, run_id: str) -> str:
    return f"… {chars:,} characters of the traceback left out; %skyrl_logs {run_id} --save FILE writes all of it"
