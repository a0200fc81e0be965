"""``%skyrl_runs``: the runs that are known, newest first."""

from __future__ import annotations

import difflib
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
usage: %skyrl_runs [--session NAME] [--state STATE] [--since WHEN] [--everyone]

The runs of your sessions that live, and those whose logs are on the volume, newest first; no container is started.
STATE is one of waiting, running, ended, failed, stopped, lost; WHEN a time as in 2h or 3d, or a day as in 2025-11-25.
--everyone shows the runs of other owners on the volume too. %skyrl_logs RUN shows a run's output."""
#: Of more rows than these, the older ones are counted.
_MAX_ROWS = 200
_COMMAND_CHARS = 60


@dataclass(frozen=True)
class RunsAsked:
    """What a line asks for."""

    session: str | None
    state: str | None
    since: float | None
    """Unix time."""
    everyone: bool
    help: bool


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


RUNS_OPTIONS = (
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
    )


def runs_table(known: KnownRuns, asked: RunsAsked, volume: str, keep: KeepRuns) -> Table:
    """The runs that were asked for, and what becomes of their logs."""
    mine = [run for run in known.runs if asked.everyone or run.mine]
    rows = [run for run in mine if _wanted(run, asked)]
    others = len(known.runs) - len(mine)
    kept = f"logs stay on volume {volume} for {keep.days:g} days, and {keep.gb:g} GB of them in all"
    caption = [f"{kept} (%config SkyRLMagic.keep_runs_days, keep_runs_gb); %skyrl_logs RUN shows one"]
    if len(rows) > _MAX_ROWS:
        caption.insert(0, f"and {len(rows) - _MAX_ROWS} older ones: --since, --session and --state choose")
    if others:
        caption.append(f"{others} runs of other owners are on the volume too: --everyone shows them")
    shared = asked.everyone and bool(others or any(not run.mine for run in rows))
    columns = ("run", "session", *(("owner",) if shared else ()), "kind", "state", "started", "took", "output")
    cells = [_cells(run, shared=shared) for run in rows[:_MAX_ROWS]]
    empty = "no runs are known" if not mine else "no runs are like that"
    return Table((*columns, "command", "log"), cells, empty, [*(caption if cells else caption[1:]), *known.silent])


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
