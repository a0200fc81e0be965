"""How a run is named on a line: by its id, by the beginning of one, or by its place, ``-1`` for the last."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from skyrl_magic.core.errors import UnknownRun

#: So many runs are named in an error.
_NAMED = 4


def is_place(text: str) -> bool:
    """Whether a run is named by its place: ``-1`` is the last one."""
    return re.fullmatch(r"-[0-9]{1,9}", text) is not None


def ways_to(run_id: str) -> str:
    """What can be done with a run that goes on."""
    return f"%skyrl_attach {run_id} shows it, %skyrl_cancel {run_id} stops it"


def resolve(text: str, candidates: Sequence[str]) -> str:
    """The id of the run that ``text`` names.

    Args:
        text: an id, the beginning of one, or ``-1`` (the last run), ``-2`` …
        candidates: the ids of the runs that there are, newest first.

    Raises:
        UnknownRun: there is none, or several begin so; the nearest ones are named.
    """
    if is_place(text):
        return _by_place(text, candidates)
    if text in candidates:
        return text
    begun = list(dict.fromkeys(run_id for run_id in candidates if text and run_id.startswith(text)))
    if len(begun) == 1:
        return begun[0]
    if begun:
        raise UnknownRun(f"{len(begun)} runs begin with {text}: {_some(begun)}; write more of the id")
    near = difflib.get_close_matches(text, candidates, n=2, cutoff=0.6)
    advice = f"did you mean {' or '.join(near)}?" if near else "%skyrl_runs lists them"
    raise UnknownRun(f"there is no run {text}: {advice}")


def _by_place(text: str, candidates: Sequence[str]) -> str:
    place = -int(text)
    if not candidates:
        raise UnknownRun("there are no runs yet")
    if place < 1:
        raise UnknownRun(f"there is no run {text}: -1 is the last one")
    if place > len(candidates):
        count = f"there are {len(candidates)} runs" if len(candidates) > 1 else "there is one run"
        raise UnknownRun(f"there is no run {text}: {count}, and -1 is the last one; %skyrl_runs lists them")
    return candidates[place - 1]


def _some(run_ids: Sequence[str]) -> str:
    return ", ".join(run_ids[:_NAMED]) + (" …" if len(run_ids) > _NAMED else "")
