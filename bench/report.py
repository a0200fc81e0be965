"""The table as Markdown, with what the machine is."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import psutil

from bench.rows import Row

_PACKAGES = ("skyrl-magic", "modal", "ipykernel", "ipython", "ipyparallel", "ray")
_REACHED = {True: "yes", False: "**no**", None: ""}
_HEAD = """\
# Benchmark

Written by `make bench`: one run, all rows in real kernels with real sessions on the local backend; what is compared was
measured in turn. Times are from a cell's request to the kernel's `idle`, as a front end sees them. A ratio compares
medians. Each warm cell compares the whole checkout ({files}) for edits.
"""
_COLUMNS = ("row", "asked", "measured", "reached", "n", "min – median – max")


def machine() -> list[tuple[str, str]]:
    """What the benchmark ran on: no names, no paths."""
    versions = [f"{name} {metadata.version(name)}" for name in _PACKAGES]
    return [
        ("date", datetime.now(timezone.utc).strftime("%Y-%m-%d")),
        ("processor", f"{_processor()}, {os.cpu_count()} cores"),
        ("memory", f"{psutil.virtual_memory().total / 2**30:.0f} GiB"),
        ("system", f"{platform.system()} {platform.release().split('-')[0]}"),
        ("Python", platform.python_version()),
        ("packages", ", ".join(versions)),
    ]


def render(groups: Sequence[tuple[str, Sequence[Row]]], took_s: float, load: str, checkout: str) -> str:
    """The whole page.

    Args:
        groups: headings and their rows.
        took_s: how long the benchmark took.
        load: what else the machine did.
        checkout: the checkout in words.
    """
    facts = [*machine(), ("load before and after", load), ("took", f"{took_s:.0f} s")]
    lines = [_HEAD.format(files=checkout), "| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in facts), ""]
    asked = [row for _, rows in groups for row in rows if row.reached is not None]
    missed = sum(not row.reached for row in asked)
    lines.append(f"{len(asked) - missed} of {len(asked)} figures reached.")
    for title, rows in groups:
        lines += ["", f"## {title}", "", f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
        lines += [_line(row) for row in rows]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    series = row.series
    count, spread = ("", "") if series is None else (str(len(series.samples)), str(series))
    return f"| {row.name} | {row.asked} | {row.measured} | {_REACHED[row.reached]} | {count} | {spread} |"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
