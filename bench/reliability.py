"""Run the fault suite as often as its table says, and write the table.

Usage: ``python -m bench.reliability [PYTEST ARGUMENT…]`` (``make faults ARGS='-k stop'`` for some of it). Rows that are
not run keep the results of their last run, in ``build/faults``. Exit code: pytest's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.report import machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "faults"
PAGE = Path(__file__).with_name("RELIABILITY.md")
#: Names the folder of the results to the tests (``tests.faults.ledger``).
_VARIABLE = "SKYRL_FAULTS_RESULTS"
_CODE_VARIABLE = "SKYRL_FAULTS_CODE"
_HEAD = """\
# Reliability

Written by `make faults` (the suite is `tests/faults`; `make test` runs it a few times each): real kernels, the real
`modal` client, a real loopback server, the real agent in real sandboxes. A try *held* where everything under "must" was
so; the last column has the load before and after, and the commit that was tested, as rows are measured one by one.
Figures are min – median – max over the tries.
"""
_COLUMNS = ("fault", "times", "must", "held", "measured", "on")


def main(arguments: list[str]) -> int:
    """Run the suite; returns its exit code."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "faults", "tests/faults", *arguments]
    env = os.environ | {_VARIABLE: str(RESULTS), _CODE_VARIABLE: _code()}
    code = subprocess.run(command, cwd=ROOT, env=env, check=False).returncode
    PAGE.write_text(render([json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))]))
    return code


def _code() -> str:
    """The commit, with a plus sign where files differ from it; the page itself does not count."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], check=False, capture_output=True, text=True)
    changed = [*git, "status", "--porcelain", "--", ".", f":!{PAGE.relative_to(ROOT)}"]
    edited = subprocess.run(changed, check=False, capture_output=True, text=True).stdout
    return commit.stdout.strip() + ("+" if edited else "")


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
    on = f"{row['on']}, {row['took_s'] / 60:.0f} min, load {row['load']}, code {row['code']}"
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
