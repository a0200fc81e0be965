"""``%skyrl_runs``: the runs that are known, newest first."""

from __future__ import annotations

import difflib
import re
import time
from dataclasses import dataclass
from datetime import datetime

from skyrl_magic.core import values
from skyrl_magic.core.errors import OptionError
from skyrl_magic.core.expand import Evaluate
from skyrl_magic.core.options import HELP, RUN, Option, read_options
from skyrl_magic.core.protocol.durations import duration_text
from skyrl_magic.core.spec import KeepRuns
from skyrl_magic.service.run_list import FAILED, LOST, STATES, STOPPED, KnownRun, KnownRuns
from skyrl_magic.ui.tables import Table, clock_text, shortened, size_text

USAGE = """\
usage: %skyrl_runs [--all] [--limit N] [--session NAME] [--state STATE] [--since WHEN] [--everyone]

This notebook's runs, newest first: those of your sessions that live, and those whose logs are on the volume. No
container is started. --all shows the runs of all your notebooks, terminals and scripts, --everyone those of other
owners on the volume too; 20 are shown, or --limit N. STATE is one of waiting, running, ended, failed, stopped, lost;
WHEN a time as in 2h or 3d, or a day as in 2025-11-25. %skyrl_logs RUN shows a run's output."""
#: Of more rows than these, the older ones are counted.
_MAX_ROWS = 20
_COMMAND_CHARS = 60
#: What gives way where a notebook is narrow, and what stands below what there.
_WIDE = "command"
_BELOW = {"kind": "session", "took": "started", "log": "output"}


@dataclass(frozen=True)
class RunsAsked:
    """What a line asks for."""

    session: str | None
    state: str | None
    since: float | None
    """Unix time."""
    everyone: bool
    help: bool
    all: bool = False
    """Of all notebooks, and not of this one alone."""
    limit: int = _MAX_ROWS


def _state(flag: str, text: str) -> str:
    if text not in STATES:
        near = difflib.get_close_matches(text, STATES, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]}?" if near else f"it is one of {', '.join(STATES)}"
        raise OptionError(f"{flag} {text}: {advice}")
    return text


def _since(flag: str, text: str) -> float:
    """The time that is meant, by this machine's clock and zone."""
    ago_s = values.seconds_of(text)
    if ago_s is not None:
        return time.time() - ago_s
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise OptionError(f"{flag} {text}: give a time as in 90m, 2h or 3d, or a day as in 2025-11-25") from None


def _limit(flag: str, text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise OptionError(f"{flag} {text}: give how many runs are shown, as in {flag} 50")
    return int(text)


RUNS_OPTIONS = (
    Option("--all", "all", RUN, "runs of all your notebooks"),
    Option("--limit", "limit", RUN, "so many of them", "N", _limit),
    Option("--session", "session", RUN, "runs of this session", "NAME", values.object_name),
    Option("--state", "state", RUN, "runs in this state", "|".join(STATES), _state),
    Option("--since", "since", RUN, "runs that began after this", "WHEN", _since),
    Option("--everyone", "everyone", RUN, "other owners' runs too"),
    Option("--help", "help", HELP, "this text", short="-h"),
)


def read_runs_line(line: str, evaluate: Evaluate | None = None) -> RunsAsked:
    """Read the line of ``%skyrl_runs``. Raises OptionError."""
    found, rest = read_options(line, RUNS_OPTIONS, evaluate=evaluate)
    if rest:
        raise OptionError(f"{rest.split()[0]!r} is no option of %skyrl_runs; -h lists them")
    return RunsAsked(
        found.get("session"),
        found.get("state"),
        found.get("since"),
        everyone=bool(found.get("everyone")),
        help=bool(found.get("help")),
        all=bool(found.get("all")),
        limit=found.get("limit", _MAX_ROWS),
    )


def runs_table(known: KnownRuns, asked: RunsAsked, notebook: str, volume: str, keep: KeepRuns) -> Table:
    """The runs that were asked for, and what becomes of their logs; ``notebook`` stands for the one that asks."""
    mine = [run for run in known.runs if asked.everyone or run.mine]
    wanted = [run for run in mine if _wanted(run, asked)]
    rows = [run for run in wanted if asked.all or asked.everyone or run.summary.notebook == notebook]
    others = len(known.runs) - len(mine)
    kept = f"logs stay on volume {volume} for {keep.days:g} days, and {keep.gb:g} GB of them in all"
    caption = [f"{kept} (%config SkyRLMagic.keep_runs_days, keep_runs_gb); %skyrl_logs RUN shows one"]
    if len(rows) > asked.limit:
        caption.insert(0, f"and {_counted(len(rows) - asked.limit, 'older run')}: --limit N shows more")
    if len(wanted) > len(rows):
        caption.append(f"{_counted(len(wanted) - len(rows), 'run')} of your other notebooks: --all shows them too")
    if others:
        caption.append(f"{_counted(others, 'run')} of other owners on the volume: --everyone shows them too")
    shared = asked.everyone and bool(others or any(not run.mine for run in rows))
    columns = ("run", "session", *(("owner",) if shared else ()), "kind", "state", "started", "took", "output")
    cells = [_cells(run, shared=shared) for run in rows[: asked.limit]]
    empty = "this notebook has no runs" if wanted else "no runs are like that" if mine else "no runs are known"
    lines = [*(caption if cells else caption[1:]), *known.silent]
    return Table((*columns, _WIDE, "log"), cells, empty, lines, _WIDE, _BELOW)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count > 1)}"


def _wanted(run: KnownRun, asked: RunsAsked) -> bool:
    return (
        asked.session in (None, run.session)
        and asked.state in (None, run.state)
        and (asked.since is None or run.summary.started_at >= asked.since)
    )


def _cells(run: KnownRun, *, shared: bool) -> tuple[str, ...]:
    summary = run.summary
    size_bytes = summary.stdout_bytes + summary.stderr_bytes + summary.outputs_bytes
    return (
        run.run_id,
        run.session,
        *(("you" if run.mine else run.owner,) if shared else ()),
        summary.kind,
        _state_text(run),
        clock_text(summary.started_at) if summary.started_at else "",
        "" if run.state == LOST else duration_text(summary.duration_s),
        size_text(size_bytes),
        shortened(summary.command, _COMMAND_CHARS),
        _log_text(run),
    )


def _state_text(run: KnownRun) -> str:
    if run.state == LOST:
        return "lost with its container"
    if run.archived is not None and run.archived.reason and run.detail == run.archived.reason:
        return f"{run.state}: {run.detail}"
    return f"{run.state} {run.detail}" if run.state in (FAILED, STOPPED, "ended") else run.state


def _log_text(run: KnownRun) -> str:
    places = ["container"] if run.place is not None else []
    if run.archived is not None or run.summary.archive_error:
        places.append("volume, in part" if run.summary.archive_error else "volume")
    return ", ".join(places)
