"""Run the fault suite as often as its table says, and write the table.

Usage: ``python -m bench.reliability [PYTEST ARGUMENT…]`` (``make faults ARGS='-k stop'`` for some of it). Rows that are
not run keep the results of their last run, in ``build/faults``. Exit code: pytest's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.report import machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "faults"
PAGE = Path(__file__).with_name("RELIABILITY.md")
#: Names the folder of the results to the tests (``tests.faults.ledger``).
_VARIABLE = "SKYRL_FAULTS_RESULTS"
_HEAD = """\
# Reliability

Written by `make faults` (the suite is `tests/faults`; `make test` runs it a few times each): real kernels, the real
`modal` client, a real loopback server, the real agent in real sandboxes. A try *held* where everything under "must" was
so; the figures are min – median – max over the tries.
"""
_COLUMNS = ("fault", "times", "must", "held", "measured", "on")


def main(arguments: list[str]) -> int:
    """Run the suite; returns its exit code."""
    load, began = os.getloadavg()[0], time.time()
    command = [sys.executable, "-m", "pytest", "-q", "-m", "faults", "tests/faults", *arguments]
    code = subprocess.run(command, cwd=ROOT, env=os.environ | {_VARIABLE: str(RESULTS)}, check=False).returncode
    for file in RESULTS.glob("*.json"):
        if file.stat().st_mtime >= began:
            row = json.loads(file.read_text(encoding="utf-8"))
            row |= {
                "on": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
                "load": f"{load:.1f}, {os.getloadavg()[0]:.1f}",
            }
            file.write_text(json.dumps(row, indent=1, ensure_ascii=False), encoding="utf-8")
    PAGE.write_text(render([json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))]))
    return code


def render(rows: list[dict[str, Any]]) -> str:
    """The page."""
    lines = [_HEAD, "| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in machine() if name != "date"), ""]
    held = sum(not row["failures"] and row["tried"] == row["asked"] for row in rows)
    lines += [f"{held} of {len(rows)} rows held in every try.", ""]
    lines += [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    lines += [_line(row) for row in rows]
    failed = [f"- {row['fault']}: {failure}" for row in rows for failure in row["failures"]]
    if failed:
        lines += ["", "## What did not hold", "", *failed]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    held = row["tried"] - len(row["failures"])
    verdict = f"{held} of {row['tried']}" if not row["failures"] else f"**{held} of {row['tried']}**"
    measured = "; ".join([*map(_figure, row["figures"]), *row["notes"]])
    on = f"{row['on']}, {row['took_s'] / 60:.0f} min, load {row['load']}"
    return f"| {row['fault']} | {row['asked']} | {row['must']} | {verdict} | {measured} | {on} |"


def _figure(figure: dict[str, Any]) -> str:
    unit = f" {figure['unit']}" if figure["unit"] else ""
    spread = (figure["min"], figure["median"], figure["max"])
    if len({f"{value:.3g}" for value in spread}) == 1:
        return f"{figure['name']}: {_number(spread[0])}{unit}"
    return f"{figure['name']}: {' – '.join(map(_number, spread))}{unit}"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2g}"  # noqa: PLR2004 - three digits


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
