"""Run the benchmark and write its table.

Usage: ``python -m bench [--quick] [--only NAME] [--output FILE]``. Exit code 0 also where a figure is not
reached, 1 where a group could not be measured.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import agent, cold, echo, flood, loading, python_cells, report, variables, world
from bench.kernels import CellFailed
from bench.rows import Row

#: In this order: the agent's memory is looked at when it has done something, and after a gigabyte its log is copied to
#: the volume for some seconds, by the cores and on the disk that the others are measured with.
GROUPS: dict[str, tuple[str, Callable[[world.World], list[Row]]]] = {
    "loading": ("Loading the extension", loading.rows),
    "echo": ("A warm cell", echo.rows),
    "flood": ("Much output", flood.rows),
    "variables": ("Variables to and from the Python kernel", variables.rows),
    "agent": ("Stop, and the agent's memory", agent.rows),
    "python": ("Python cells", python_cells.rows),
    "cold": ("Cold sessions", cold.rows),
    "gigabyte": ("A gigabyte of output", flood.memory_rows),
}


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the magics; writes bench/RESULTS.md.")
    parser.add_argument("--quick", action="store_true", help="the cheap rows alone, few times, on a small checkout")
    parser.add_argument("--only", choices=GROUPS, action="append", help="this group alone (repeats)")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("RESULTS.md"), help="the table")
    options = parser.parse_args()
    load_before, began = os.getloadavg()[0], time.monotonic()
    groups, failed = [], False
    with world.made(quick=options.quick) as surroundings:
        for name in options.only or GROUPS:
            title, measure = GROUPS[name]
            print(f"{time.monotonic() - began:6.1f} s  {title}", flush=True)
            try:
                rows = measure(surroundings)
            except CellFailed as error:  # the other groups are worth having all the same
                failed, rows = True, [Row("could not be measured", "a cell failed")]
                print(error, file=sys.stderr)
            for row in rows:
                verdict = {True: "reached", False: "NOT reached", None: ""}[row.reached]
                print(f"          {row.name}: {row.measured}  {row.asked}  {verdict}".rstrip(), flush=True)
            groups.append((title, rows))
    files = "60 files, 0.6 MB" if options.quick else f"{world.CHECKOUT_FILES:,} files, 23 MB"
    load = f"{load_before:.1f}, {os.getloadavg()[0]:.1f}"
    options.output.write_text(report.render(groups, time.monotonic() - began, load, files), encoding="utf-8")
    print(f"{time.monotonic() - began:6.1f} s  the table is in {options.output}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
