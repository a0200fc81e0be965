"""``%skyrl_logs``: any part of a run's output, shown within the display budget or saved whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import OptionError, SessionLost
from skyrl_magic.core.options import RUN, Option, read_options
from skyrl_magic.service import logs
from skyrl_magic.service.find_run import Found
from skyrl_magic.service.session import Session
from skyrl_magic.ui.display import RunDisplay, note
from skyrl_magic.ui.notebook import Notebook
from skyrl_magic.ui.replay import ReplayText, ReplayView
from skyrl_magic.ui.tables import size_text

USAGE = "usage: %skyrl_logs [RUN] [--stdout|--stderr] [--tail LINES] [--bytes FROM:TO] [--save PATH]"


def _count(flag: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise OptionError(f"{flag} {text}: give a number of lines")
    return int(text)


def _range(flag: str, text: str) -> tuple[int, int]:
    start, colon, end = text.partition(":")
    if not colon or not (start + end or "0").isdecimal():
        raise OptionError(f"{flag} {text}: give FROM:TO, as in 0:4096, or FROM: for the rest")
    if end and int(end) <= int(start or 0):
        raise OptionError(f"{flag} {text}: TO comes after FROM")
    return int(start or 0), int(end) if end else -1


LOG_OPTIONS = (
    Option("--stdout", "stdout", RUN, "stdout alone"),
    Option("--stderr", "stderr", RUN, "stderr alone"),
    Option("--tail", "tail", RUN, "the last lines", "LINES", _count),
    Option("--bytes", "bytes", RUN, "a range of bytes", "FROM:TO", _range),
    Option("--save", "save", RUN, "write it to a file instead of showing it", "PATH"),
    Option("--help", "help", RUN, "this text", short="-h"),
)


def show_logs(line: str, notebook: Notebook, find: Callable[[str], Found]) -> None:
    """Carry out ``%skyrl_logs``.

    Args:
        line: what follows the magic's name.
        notebook: knows which session ran what.
        find: finds a run that this notebook did not start; with an empty id the last one of its session.

    Raises:
        OptionError: a wrong line. UnknownRun: there is no such run. SessionError: its session cannot be asked.
    """
    first, *others = line.split(None, 1) or [""]
    run_id, options = ("", line) if first.startswith("-") else (first, "".join(others))
    found, rest = read_options(options, LOG_OPTIONS)
    if found.get("help"):
        note(USAGE)
        return
    if rest and (run_id or len(rest.split()) > 1):
        raise OptionError(f"{rest.split()[0]!r} is no option; {USAGE}")
    run_id = run_id or rest or notebook.last_run or ""
    source = notebook.runs.get(run_id)
    if source is None:
        source, run = find(run_id)
    elif not source.channel.alive:
        raise SessionLost(f"session {source.name}, which holds run {run_id}, has ended, and its log with it")
    else:
        run = logs.summary(source, run_id)
    _deliver(source, run, found)


def _deliver(session: Session, run: protocol.RunSummary, found: dict[str, Any]) -> None:
    streams = [stream for stream in protocol.STREAMS if found.get(stream)] or list(protocol.STREAMS)
    if "tail" in found or ("bytes" in found and "save" in found):
        data = b"".join(_part(session, run, stream, found) for stream in streams)
        if "save" in found:
            path = _path(found["save"])
            with _saving(path) as file:
                file.write(data)
            note(f"{size_text(len(data))} of run {run.run_id} are in {path}")
        else:
            display = RunDisplay(run.run_id, whole=True)
            display.feed(protocol.Output(run.run_id, streams[0], 0, len(data), payload=data))
            display.close(None)
        return
    if "bytes" not in found and not any(found.get(stream) for stream in protocol.STREAMS):
        streams.append(protocol.OUTPUTS)
    if "save" in found:
        _save(session, run, streams, _path(found["save"]))
    else:
        display = RunDisplay(run.run_id, whole=True)
        part = found.get("bytes", (0, -1))
        view = ReplayView(run.run_id, display, part[0])
        logs.replay(session, run, streams, protocol.SHOW, view.feed, part)
        display.close(None)


def _part(session: Session, run: protocol.RunSummary, stream: str, found: dict[str, Any]) -> bytes:
    if "tail" in found:
        return logs.last_lines(session, run, stream, found["tail"])
    return logs.byte_range(session, run, stream, *found["bytes"])


def _save(session: Session, run: protocol.RunSummary, streams: list[str], path: Path) -> None:
    with _saving(path) as file:
        text = ReplayText(file.write)
        logs.replay(session, run, streams, protocol.ALL, text.feed)
    note(f"{size_text(text.size_bytes)} of run {run.run_id} are in {path}")


@contextlib.contextmanager
def _saving(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("wb") as file:
            yield file
    except OSError as error:
        raise OptionError(f"--save {path}: {error.strerror}") from None


def _path(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.parent.is_dir():
        raise OptionError(f"--save {text}: there is no folder {path.parent}")
    return path
