"""Why Ray did not start, or has ended, in one line: what its start printed, and what its processes wrote."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Iterator, Optional

_MAX_BYTES = 64 * 1024
_MAX_CHARS = 240
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: A line that says what went wrong, among those of a traceback or of advice.
_TELLING = re.compile(r"error|exception|fail|refus|timed out|no space|denied|not found|cannot|unable", re.IGNORECASE)
#: Ray's native processes write ``[2026-12-01 02:03:04,567 E 12 12] (raylet) file.cc:1:  text``; these are bad news.
_NATIVE = re.compile(r"^\[[^\]]* (?P<level>[A-Z]) \d+ \d+\] (?:\([^)]*\) )?(?:\S+:\d+: +)?(?P<text>.*)")
_BAD = ("E", "C", "F")
#: What ``ray start`` says when one of its processes has not come up; why is in that one's own log.
_CAME_NOT_UP = "timed out during startup"


def session_logs(began: float) -> Optional[Path]:
    """Where the Ray that was started after ``began`` keeps its logs; None where there is none such.

    Args:
        began: when its start began, in seconds since the epoch, less what the times of files are coarse.
    """
    session = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray" / "session_latest"  # noqa: S108
    with contextlib.suppress(OSError):
        if session.lstat().st_mtime >= began:
            return session / "logs"
    return None


def why_not_started(output: Path, start: int, logs: Optional[Path]) -> str:
    """What the start printed into ``output`` from byte ``start`` on that says most; empty where it printed nothing."""
    lines = list(_lines(output, start))
    telling = [line for line in lines if _TELLING.search(line)]
    found = (telling or lines or [""])[-1]
    if _CAME_NOT_UP in found:
        words = next(filter(None, (why_ended(name, logs) for name in ("gcs_server", "raylet"))), "")
        found = f"{found} ({words})" if words else found
    return _short(found)


def why_ended(name: str, logs: Optional[Path]) -> str:
    """The last bad news in the logs of a process of Ray's; empty where there are none."""
    if logs is None:
        return ""
    for line in reversed(list(_lines(logs / f"{name}.out", 0))):
        native = _NATIVE.match(line)
        if native is not None and native["level"] in _BAD:
            return _short(native["text"])
    return _short(next(reversed(list(_lines(logs / f"{name}.err", 0))), ""))


def _lines(path: Path, start: int) -> Iterator[str]:
    """The lines of a file that have something, of its last part."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, os.fstat(file.fileno()).st_size - _MAX_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return
    for line in _COLOURS.sub("", text).splitlines():
        if any(character.isalnum() for character in line):
            yield line.strip()


def _short(line: str) -> str:
    return line if len(line) <= _MAX_CHARS else f"{line[:_MAX_CHARS]}…"
