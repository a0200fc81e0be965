"""docs/modal_limits.md names tests that exist, and a test for each row."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/modal_limits.md"
_TEST = re.compile(r"(tests/[\w/]+\.py)::(test_\w+)")


def rows() -> list[list[str]]:
    """The cells of each row of the page's tables."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] != "limit or behaviour" and not set(row[0]) <= {"-", " "}]


def test_every_row_has_its_evidence_and_its_tests() -> None:
    assert len(rows()) > 15
    for row in rows():
        assert len(row) == 3, row
        assert row[1], row
        assert _TEST.search(row[2]), row


def test_every_test_that_is_named_exists() -> None:
    for path, name in _TEST.findall(PAGE.read_text("utf-8")):
        source = ROOT / path
        assert source.is_file(), path
        assert re.search(rf"^\s*def {name}\(", source.read_text("utf-8"), re.MULTILINE), f"{path}::{name}"


def test_no_path_of_a_machine_stands_in_it() -> None:
    assert not re.search(r"site-packages|/work/|/home/|\.\./shared", PAGE.read_text("utf-8"))
