"""The lines of ``%skyrl_attach`` and ``%skyrl_cancel``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from skyrl_magic.core import values
from skyrl_magic.core.errors import OptionError
from skyrl_magic.core.expand import Evaluate, end_of_braces
from skyrl_magic.core.options import HELP, RUN, Option, read_options, value_of

ATTACH_HELP = """\
usage: %skyrl_attach [RUN] [--from start]

Go on with a run in this cell: from where this notebook's output of it stopped, also when its kernel was restarted
since, or with --from start from its first byte. RUN is a run's id, the beginning of one, or -1 for the last run;
without RUN the newest of this notebook's that goes on, else its last one. Stop stops the run, as in its own cell
(%config SkyRLMagic.on_interrupt)."""
CANCEL_HELP = """\
usage: %skyrl_cancel [RUN…]
       %skyrl_cancel --session NAME

Stop these runs for good, all of a session, or this notebook's one that goes on: SIGINT, then SIGTERM and SIGKILL after
a grace period each (%config SkyRLMagic.grace), to all that a run started. A Python run is interrupted; asked again, its
kernel is ended."""
_START = "start"


@dataclass(frozen=True)
class Attach:
    """What a line asks for."""

    run: str
    from_start: bool
    help: bool


@dataclass(frozen=True)
class Cancel:
    """What a line asks for: ``runs``, or all of ``session``."""

    runs: tuple[str, ...]
    session: str | None
    help: bool


def _from(flag: str, text: str) -> str:
    if text != _START:
        raise OptionError(f"{flag} {text}: it is {_START}, or left out")
    return text


_HELP = Option("--help", "help", HELP, "this text", short="-h")
ATTACH_OPTIONS = (Option("--from", "start", RUN, "where to begin", _START, _from), _HELP)
CANCEL_OPTIONS = (Option("--session", "session", RUN, "all of this session", "NAME", values.object_name), _HELP)
#: The runs of a line: a word that is no option, or ``-1``.
_RUN_WORD = re.compile(r"(?:-[0-9]+|[^-\s]\S*)")


def read_attach(line: str, evaluate: Evaluate | None = None) -> Attach:
    """Read the line of ``%skyrl_attach``. Raises OptionError."""
    runs, found = read_runs(line, ATTACH_OPTIONS, evaluate)
    if len(runs) > 1:
        raise OptionError(f"%skyrl_attach takes one run, and {runs[1]!r} is a second one")
    return Attach(runs[0] if runs else "", "start" in found, bool(found.get("help")))


def read_cancel(line: str, evaluate: Evaluate | None = None) -> Cancel:
    """Read the line of ``%skyrl_cancel``. Raises OptionError."""
    runs, found = read_runs(line, CANCEL_OPTIONS, evaluate)
    cancel = Cancel(runs, found.get("session"), bool(found.get("help")))
    if not cancel.help and runs and cancel.session is not None:
        raise OptionError("name the runs to stop, or --session NAME for all of one: %skyrl_runs lists them")
    return cancel


def read_runs(
    line: str, options: tuple[Option, ...], evaluate: Evaluate | None = None
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The runs and the options of a line, in any order. Raises OptionError."""
    runs: list[str] = []
    found: dict[str, Any] = {}
    rest = line.strip()
    while rest:
        word = _RUN_WORD.match(rest)
        if word:
            end = word.end() if evaluate is None else end_of_braces(rest, 0, word.end())
            runs += value_of("a run", rest[:end], evaluate).split() if "{" in word[0] else [word[0]]
            rest = rest[end:].strip()
            continue
        more, rest = read_options(rest, options, places=True, evaluate=evaluate)
        found |= more
    return tuple(runs), found
