"""What ARCHITECTURE.md says about where to change something is where the example that it names is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "skyrl_magic"
TEXT = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
#: A row of the table "To add …": the example, and the text with the files.
FOLLOWED = re.findall(r"^\|[^|]*\(follow `(\w+)`\) \|(.*)\|$", TEXT, re.MULTILINE)


@pytest.mark.parametrize(("example", "row"), FOLLOWED, ids=[example for example, _ in FOLLOWED])
def test_every_module_that_an_addition_goes_through_is_named(example: str, row: str) -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(rf"\b{example}\b", path.read_text(encoding="utf-8"))
    }
    assert found - set(re.findall(r"`([\w/]+\.py)`", row)) == set()


def test_there_are_examples_and_every_file_that_is_named_is_there() -> None:
    assert len(FOLLOWED) == 5
    named = re.findall(r"`((?:core|ui|service|cloud|agent|loopback)/[\w/]+\.py)`", TEXT)
    assert [name for name in named if not (PACKAGE / name).is_file()] == []
