"""``%skyrl_logs``: any part of a run's output, shown within the display budget or saved whole."""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import OptionError
from skyrl_magic.core.expand import Evaluate
from skyrl_magic.core.options import RUN, Option
from skyrl_magic.service.run_log import LiveLog, RunLog, VolumeLog, last_lines, size_of
from skyrl_magic.ui.attach import read_runs
from skyrl_magic.ui.display import RunDisplay, note
from skyrl_magic.ui.follow_log import follow_log
from skyrl_magic.ui.grep import Grep
from skyrl_magic.ui.replay import ReplayText, ReplayView
from skyrl_magic.ui.tables import size_text

USAGE = """\
usage: %skyrl_logs [RUN] [--stdout|--stderr] [--tail LINES] [--grep RE] [--bytes FROM:TO] [--follow] [--save PATH]

The output of a run, from its container while that lives and else from the volume, without a container. RUN is a run's
id, the beginning of one, or -1 for the last run, which is what no RUN means too. --follow goes on until the run ends;
Stop ends the following, and not the run. --bytes counts in stdout, or with --stderr in that. %skyrl_runs lists runs."""


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


def _pattern(flag: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise OptionError(f"{flag} {text}: no regular expression: {error}") from None


LOG_OPTIONS = (
    Option("--stdout", "stdout", RUN, "stdout alone"),
    Option("--stderr", "stderr", RUN, "stderr alone"),
    Option("--tail", "tail", RUN, "the last lines", "LINES", _count),
    Option("--bytes", "bytes", RUN, "a range of bytes of stdout, or with --stderr of that", "FROM:TO", _range),
    Option("--grep", "grep", RUN, "the lines that a regular expression is found in", "RE", _pattern),
    Option("--follow", "follow", RUN, "go on until the run ends"),
    Option("--save", "save", RUN, "write it to a file instead of showing it", "PATH"),
    Option("--help", "help", RUN, "this text", short="-h"),
)


def show_logs(
    line: str,
    find: Callable[[str], RunLog],
    aside: Callable[[str], contextlib.AbstractContextManager[None]],
    evaluate: Evaluate | None = None,
) -> None:
    """Carry out ``%skyrl_logs``.

    Args:
        line: what follows the magic's name.
        find: finds the log of the run of a name; without one, of the last run.
        aside: keeps whatever else follows a run, by its id, away while it is read.
        evaluate: gives the text of an expression in braces.

    Raises:
        OptionError: a wrong line. UnknownRun: there is no such run. SessionError, BackendError: one cannot ask.
        RunLeft: the user stopped following a run.
    """
    runs, found = read_runs(line, LOG_OPTIONS, evaluate)
    if found.get("help"):
        note(USAGE)
        return
    if len(runs) > 1:
        raise OptionError(f"{runs[1]!r} is no option: %skyrl_logs shows one run, and -h lists its options")
    if "follow" in found and ("save" in found or "bytes" in found):
        raise OptionError("--follow shows what comes: leave --save and --bytes out")
    if "bytes" in found and "tail" in found:
        raise OptionError("--bytes and --tail both say which part: leave one out")
    path = _path(found["save"]) if "save" in found else None
    log = find(runs[0] if runs else "")
    try:
        with aside(log.run.run_id) if isinstance(log, LiveLog) else contextlib.nullcontext():
            _deliver(log, found, path)
    finally:
        if isinstance(log, VolumeLog):
            log.close()


def _deliver(log: RunLog, found: dict[str, Any], path: Path | None) -> None:
    chosen = [stream for stream in protocol.STREAMS if found.get(stream)]
    # A place is one in a stream.
    streams = chosen or ([protocol.STDOUT] if "bytes" in found else list(protocol.STREAMS))
    whole = len(streams) > 1 and "bytes" not in found
    if "bytes" in found and all(found["bytes"][0] >= size_of(log.run, stream) for stream in streams):
        sizes = " and ".join(f"{size_of(log.run, stream):,} bytes of {stream}" for stream in streams)
        note(f"run {log.run.run_id} has {sizes}: nothing is there")
    elif "follow" in found and isinstance(log, LiveLog):
        follow_log(log, streams, found)
    elif "grep" in found:
        _search(log, [*streams, protocol.OUTPUTS] if whole else streams, found, path)
    elif "tail" in found or ("bytes" in found and path is not None):
        _give(log, [(stream, _part(log, stream, found)) for stream in streams], path)
    elif path is not None:
        _save(log, [*streams, protocol.OUTPUTS] if whole else streams, path)
    else:
        display = RunDisplay(log.run.run_id, whole=True)
        part = found.get("bytes", (0, -1))
        view = ReplayView(log.run.run_id, display, part[0])
        log.replay([*streams, protocol.OUTPUTS] if whole else streams, protocol.SHOW, view.feed, part)
        display.close(None)


def _search(log: RunLog, streams: list[str], found: dict[str, Any], path: Path | None) -> None:
    """Show or save the lines that match, or the last of them."""
    lines: deque[tuple[str, bytes]] = deque(maxlen=found.get("tail"))
    grep = Grep(found["grep"], lambda stream, text: lines.append((stream, text)))
    log.replay(streams, protocol.ALL, grep.feed, found.get("bytes", (0, -1)))
    grep.close()
    if not lines:
        note(f"no line of run {log.run.run_id} has {found['grep'].pattern}")
    else:
        _give(log, lines, path)


def _give(log: RunLog, parts: Iterable[tuple[str, bytes]], path: Path | None) -> None:
    """Show texts of streams, or save them."""
    run_id = log.run.run_id
    if path is None:
        display = RunDisplay(run_id, whole=True)
        offsets = dict.fromkeys(protocol.STREAMS, 0)
        for stream, data in parts:
            display.feed(protocol.Output(run_id, stream, offsets[stream], len(data), payload=data))
            offsets[stream] += len(data)
        display.close(None)
        return
    data = b"".join(text for _, text in parts)
    with _saving(path) as file:
        file.write(data)
    note(f"{size_text(len(data))} of run {run_id} are in {path}")


def _part(log: RunLog, stream: str, found: dict[str, Any]) -> bytes:
    if "tail" in found:
        return last_lines(log, stream, found["tail"])
    return log.read(stream, *found["bytes"])


def _save(log: RunLog, streams: list[str], path: Path) -> None:
    with _saving(path) as file:
        text = ReplayText(file.write)
        log.replay(streams, protocol.ALL, text.feed)
    note(f"{size_text(text.size_bytes)} of run {log.run.run_id} are in {path}")


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
