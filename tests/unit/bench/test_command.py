"""The benchmark's command, from its kernels to its table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import __main__ as command
from bench.world import ROOT


@pytest.mark.serial
def test_the_quick_mode_writes_a_table_of_every_group(tmp_path: Path) -> None:
    table = tmp_path / "RESULTS.md"
    run = [sys.executable, "-m", "bench", "--quick", "--output", str(table)]
    done = subprocess.run(run, cwd=ROOT, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    page = table.read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == [title for title, _ in command.GROUPS.values()]
    rows = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if line.startswith("| ")}
    for name in (
        "warm `echo` cell ÷ `%%bash`",
        "one edited file adds",
        "agent resident (supervisor, what watches it, attach)",
    ):
        assert re.search(r"\| (yes|\*\*no\*\*) \| \d+ \|", rows[name]), rows[name]
    assert "checkout (the upload)" in page
