"""The catalog of a session on the volume, as both sides read it.

Whoever can write on the volume may have written one: it is read strictly and within bounds, and a run of it that is
none of ours is left out. Its layout is that of ``agent.archive``; where it lies says :mod:`journal_index`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from skyrl_magic.core.protocol.output import JOURNAL_STREAMS
from skyrl_magic.core.protocol.runs import SHELL, RunSummary

#: No catalog of ours is larger, in bytes: a run takes about 500.
MAX_CATALOG_BYTES = 16 << 20
SUFFIX = ".json"
#: No pack of small journals is larger, in bytes: ``agent.archive_pass`` begins another one at a sixteenth.
MAX_PACK_BYTES = 16 << 20
#: The end of the year 9999, as Unix time: what a calendar can show.
_LAST_TIME = 253_402_300_799.0
#: What a size can be in JSON without loss.
_MAX_COUNT = 1 << 53
_MAX_CODE = 1 << 31
_MAX_DIGITS = 20
_MAX_CHARS = 4096
#: A name that leads nowhere else: of a run's folder, a pack or a catalog.
_PLAIN = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}")


class NoCatalogError(ValueError):
    """A file is none of our catalogs."""


class Packed(NamedTuple):
    """Where a small journal lies: the pack's file, the first byte, and the sizes of ``JOURNAL_FILES``."""

    file: str
    start: int
    sizes: Tuple[int, ...]


class CatalogRun(NamedTuple):
    """A run of a catalog."""

    summary: RunSummary
    reason: str
    """Why the session ended it; empty where the session did not."""
    packed: Optional[Packed]
    """None: its journal has a folder."""
    entry: Dict[str, Any]
    """As it stands in the catalog."""

    @property
    def size_bytes(self) -> int:
        """The bytes of its streams."""
        return sum(getattr(self.summary, f"{stream}_bytes") for stream in JOURNAL_STREAMS)


class Catalog(NamedTuple):
    """A session as its catalog tells of it. Times are Unix times in seconds."""

    session: str
    owner: str
    app: str
    started_at: float
    timeout_s: float
    """0 where it is not known."""
    ended_at: Optional[float]
    """None where its container has not said that it ends: it lives, or has died."""
    reason: str
    """Why it ended."""
    runs: List[CatalogRun]
    values: Dict[str, Any]
    """All of it, as it was read."""

    @property
    def owner_id(self) -> str:
        """What stays of its owner when that takes another name, as in ``service.owners``."""
        last = self.owner.rpartition(" (")[2]
        return last[:-1] if last.endswith(")") else last


def is_plain_name(name: str) -> bool:
    """Whether ``name`` may be the name of a file or folder of the archive."""
    return _PLAIN.fullmatch(name) is not None


def read_catalog(data: bytes) -> Catalog:
    """What a catalog's file says. Raises NoCatalogError for what is none of ours."""
    if len(data) > MAX_CATALOG_BYTES:
        raise NoCatalogError("too large for a catalog")
    try:
        values = json.loads(data.decode("utf-8"), parse_int=_integer, parse_constant=_no_constant)
    except RecursionError:
        raise NoCatalogError("too deep for a catalog") from None
    return catalog_of(values)


def catalog_of(values: Any) -> Catalog:
    """The catalog with these values. Raises NoCatalogError for what is none of ours."""
    if not isinstance(values, dict) or not {"ended_at", "reason"} <= values.keys():
        raise NoCatalogError("no catalog")
    entries = values.get("runs", [])
    if not isinstance(entries, list):
        raise NoCatalogError("no list of runs")
    ended_at = values["ended_at"]
    return Catalog(
        _text(values, "session"),
        _text(values, "owner"),
        _text(values, "app"),
        _number(values.get("started_at", 0.0)),
        _number(values.get("timeout_s", 0.0)),
        None if ended_at is None else _number(ended_at),
        _text(values, "reason"),
        [run for run in map(_run_or_none, entries) if run is not None],
        values,
    )


def _run_or_none(entry: Any) -> Optional[CatalogRun]:
    try:
        return _run(entry)
    except (ValueError, TypeError, KeyError):
        return None


def _run(entry: Dict[str, Any]) -> CatalogRun:
    """Raises ValueError, TypeError or KeyError for what is no run."""
    run_id, code = entry["run_id"], entry.get("exit_code")
    if not is_plain_name(run_id):
        raise NoCatalogError("no run's id")
    summary = RunSummary(
        run_id,
        _text(entry, "state"),
        _text(entry, "command"),
        _number(entry["started_at"]),
        _number(entry["duration_s"]),
        None if code is None else _count(code, -_MAX_CODE, _MAX_CODE),
        kind=_text(entry, "kind") or SHELL,
        cancelled=_text(entry, "cancelled"),
        archive_error=_text(entry, "archive_error"),
        notebook=_text(entry, "notebook"),
        reason=_text(entry, "reason"),
        stdout_bytes=_count(entry["stdout_bytes"]),
        stderr_bytes=_count(entry["stderr_bytes"]),
        outputs_bytes=_count(entry["outputs_bytes"]),
    )
    return CatalogRun(summary, _text(entry, "reason"), _packed(entry["packed"]), entry)


def _packed(value: Any) -> Optional[Packed]:
    if value is None:
        return None
    file, start, sizes = value
    if not is_plain_name(file) or len(sizes) > 1 + len(JOURNAL_STREAMS):
        raise NoCatalogError("no place in a pack")
    return Packed(file, _count(start), tuple(_count(size) for size in sizes))


def _text(values: Dict[str, Any], name: str) -> str:
    value = values.get(name, "")
    if not isinstance(value, str):
        raise NoCatalogError(f"{name} is no text")
    return value[:_MAX_CHARS]


def _number(value: Any) -> float:
    """A time or a duration in seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise NoCatalogError("no number")
    if not math.isfinite(value) or not 0 <= value <= _LAST_TIME:
        raise NoCatalogError("no time")
    return float(value)


def _count(value: Any, least: int = 0, most: int = _MAX_COUNT) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise NoCatalogError("no count")
    return value


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:  # to read a very long one takes very long
        raise NoCatalogError("no count")
    return int(digits)


def _no_constant(name: str) -> float:
    raise NoCatalogError(f"{name} is no number")
