"""Completion of the magics' options and values: what fits at the cursor (``ui/matcher`` brings it to IPython)."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from skyrl_magic.core import contract, gpus
from skyrl_magic.core.options import BACKENDS, OPTIONS, START_SCOPES, TRAVEL_SCOPES, Option, split_words

_MAGIC = re.compile(r"\s*(?P<escape>%%?)(?P<name>skyrl_\w+)[ \t]+(?P<line>.*)", re.DOTALL)


class Known(Protocol):
    """What completion asks of the notebook; it must be quick, as it answers a key press."""

    def session_names(self) -> Sequence[str]:
        """The names of the sessions that are known here."""
        ...

    def run_ids(self) -> Sequence[str]:
        """The ids of this notebook's runs, the newest first."""
        ...


_Found = tuple[str, Iterable[str]]


@dataclass(frozen=True)
class Completions:
    """What can stand for ``fragment``, the text right before the cursor."""

    fragment: str
    texts: tuple[str, ...]


def complete(cell: str, line_number: int, column: int, known: Known) -> Completions | None:
    """What fits at the cursor, or None where the line is none of ours or its options are over.

    Args:
        cell: the whole cell, as a notebook sends it, or the line that is typed in a terminal.
        line_number: the cursor's line, from 0.
        column: the cursor's place in that line, from 0.
        known: asked where a session or a run can stand.
    """
    lines = cell.split("\n")
    match = _MAGIC.fullmatch(lines[line_number][:column])
    if match is None:
        return None
    before = [line for line in lines[:line_number] if line.strip()]
    # A cell magic stands in the first line that is not blank, and what is below one is its text, not ours.
    if before and (match["escape"] == "%%" or before[0].startswith("%%")):
        return None
    words, fragment = _split(match["line"])
    magic = _MAGICS.get(match["name"])
    candidates = None if magic is None else magic(words, fragment, known)
    if candidates is None:
        return None
    fragment, texts = candidates
    typed = fragment.lower()
    return Completions(fragment, tuple(text for text in texts if text.lower().startswith(typed)))


def _split(text: str) -> tuple[list[str], str]:
    """The words before the one that the cursor is in or behind, and that one."""
    words = split_words(text)
    if words and text.endswith(words[-1]):
        return words[:-1], words[-1]
    return words, ""


def _after_options(options: Iterable[Option], words: Sequence[str], fragment: str, known: Known) -> _Found | None:
    """Flags that can still be given, or the values of the flag before the cursor."""
    options = list(options)
    by_flag = {name: option for option in options for name in (option.flag, option.short) if name}
    given: set[str] = set()
    waiting: Option | None = None
    for word in words:
        if waiting is not None:
            waiting = None
            continue
        flag, equals, _ = word.partition("=")
        option = by_flag.get(flag)
        if option is None:
            return None  # the command has begun, or the line is wrong
        given.add(option.field)
        waiting = option if option.metavar is not None and not equals else None
    if waiting is not None:
        return fragment, _values(waiting, fragment, known)
    flag, equals, value = fragment.partition("=")
    if equals and flag in by_flag:
        return value, _values(by_flag[flag], value, known)
    if fragment and not fragment.startswith("-"):
        return None
    return fragment, [option.flag for option in options if option.repeats or option.field not in given]


def _values(option: Option, fragment: str, known: Known) -> Iterable[str]:
    if option.field == "gpu":
        return _gpus(fragment)
    if option.field == "session":
        return known.session_names()
    if option.field == "repo":
        return (gpus.NONE, *_folders(fragment))
    if option.field == "state":
        return (option.metavar or "").split("|")
    return {
        "backend": BACKENDS,
        "start": ("start",),
        "image": (contract.IMAGE_OLD_LAYOUT, contract.IMAGE_NEW_LAYOUT),
    }.get(option.field, ())


def _gpus(fragment: str) -> Iterable[str]:
    before, comma, last = fragment.rpartition(",")
    name, colon, _ = last.partition(":")
    if not colon:
        return [f"{before}{comma}{name}" for name in (*gpus.MAX_COUNTS, gpus.NONE)]
    counts = range(1, gpus.MAX_COUNTS.get(name.upper(), 0) + 1)
    return [f"{before}{comma}{name}:{count}" for count in counts]


def _folders(fragment: str) -> Iterator[str]:
    """The folders that a path can go on with; those that would need quotes are left out."""
    head = fragment[: fragment.rfind("/") + 1]
    try:
        found = sorted(entry.name for entry in os.scandir(Path(head).expanduser()) if entry.is_dir())
    except (OSError, RuntimeError):
        return
    hidden = fragment[len(head) :].startswith(".")
    for name in found:
        if split_words(name) == [name] and not re.search(r"['\"\\]", name) and name.startswith(".") == hidden:
            yield f"{head}{name}/"


def _run(words: Sequence[str], fragment: str, known: Known) -> _Found | None:
    return _after_options(OPTIONS, words, fragment, known)


def _start(words: Sequence[str], fragment: str, known: Known) -> _Found | None:
    return _after_options([o for o in OPTIONS if o.scope in START_SCOPES], words, fragment, known)


def _use(words: Sequence[str], fragment: str, known: Known) -> _Found | None:
    return fragment, [] if words else known.session_names()


def _stop(words: Sequence[str], fragment: str, known: Known) -> _Found | None:
    if "--all" in words:
        return None
    return fragment, [*(name for name in known.session_names() if name not in words), *(() if words else ("--all",))]


def _logs(words: Sequence[str], fragment: str, known: Known) -> _Found | None:
    from skyrl_magic.ui.logs import LOG_OPTIONS

    return _run_and_options(LOG_OPTIONS, words, fragment, known)


def _runs(words: Sequence[str], fragment: str, known: Known) -> _Found | None:
    from skyrl_magic.ui.runs import RUNS_OPTIONS

    return _after_options(RUNS_OPTIONS, words, fragment, known)


def _attach(words: Sequence[str], fragment: str, known: Known) -> _Found | None:
    from skyrl_magic.ui.attach import ATTACH_OPTIONS

    return _run_and_options(ATTACH_OPTIONS, words, fragment, known)


def _cancel(words: Sequence[str], fragment: str, known: Known) -> _Found | None:
    from skyrl_magic.ui.attach import CANCEL_OPTIONS

    if any(word.startswith("--") for word in words) or fragment.startswith("-"):
        return _after_options(CANCEL_OPTIONS, words, fragment, known)
    return fragment, [*(run for run in known.run_ids() if run not in words), *(() if words else ("--session",))]


def _run_and_options(options: Iterable[Option], words: Sequence[str], fragment: str, known: Known) -> _Found | None:
    """A run comes first, where there is one."""
    if not words and not fragment.startswith("-"):
        return fragment, [*known.run_ids(), *(option.flag for option in options)]
    has_run = bool(words) and re.fullmatch(r"-[0-9]+|[^-].*", words[0]) is not None
    return _after_options(options, words[1:] if has_run else words, fragment, known)


def _travel(words: Sequence[str], fragment: str, known: Known) -> _Found | None:
    options = [o for o in OPTIONS if o.scope in TRAVEL_SCOPES]
    return _after_options(options, list(itertools.dropwhile(lambda w: not w.startswith("-"), words)), fragment, known)


_MAGICS: dict[str, Callable[[Sequence[str], str, Known], _Found | None]] = {
    "skyrl_modal": _run,
    "skyrl_python": _run,
    "skyrl_start": _start,
    "skyrl_restart": _start,
    "skyrl_push": _travel,
    "skyrl_pull": _travel,
    "skyrl_stop": _stop,
    "skyrl_use": _use,
    "skyrl_logs": _logs,
    "skyrl_attach": _attach,
    "skyrl_cancel": _cancel,
    "skyrl_runs": _runs,
}
