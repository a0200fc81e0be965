from __future__ import annotations

import inspect
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
from modal_proto.api_grpc import ModalClientBase

from skyrl_magic.loopback import coverage
from skyrl_magic.loopback.control.calls import unary
from skyrl_magic.loopback.server import covered_methods, implementation

PAGE = Path(__file__).parents[3] / "docs/loopback.md"


def test_the_page_is_up_to_date(tmp_path: Path) -> None:
    fresh = tmp_path / "page.md"
    fresh.write_text(PAGE.read_text("utf-8"), encoding="utf-8")
    coverage.write_page(fresh)
    message = "run: python -m skyrl_magic.loopback --coverage docs/loopback.md"
    assert PAGE.read_text("utf-8") == fresh.read_text("utf-8"), message


def test_every_method_is_in_the_table_once() -> None:
    names = [row.name for row in coverage.rows()]
    assert len(names) == len(set(names))
    assert set(covered_methods()) < set(names)
    table = coverage.table()
    assert all(table.count(f"`{name}`") == 1 for name in names)


def test_every_row_says_something() -> None:
    assert [row.name for row in coverage.rows() if not row.note] == []
    by_name = {row.name: row for row in coverage.rows()}
    assert by_name["VolumeList"].state == coverage.COVERED
    assert by_name["SandboxCreate"].state == coverage.PARTLY
    assert by_name["router.TaskSnapshotFilesystem"].state == coverage.MISSING
    assert "volume" in by_name["router.TaskSnapshotFilesystem"].note


def test_the_command_prints_it() -> None:
    words = [sys.executable, "-m", "skyrl_magic.loopback", "--coverage"]
    assert subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout == coverage.table()


def test_a_page_without_a_place_stays_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text", encoding="utf-8")
    with pytest.raises(ValueError, match=r"page\.md"):
        coverage.write_page(page)
    assert page.read_text("utf-8") == "text"


def _answers() -> list[tuple[str, Any]]:
    """Name and annotated answer of each method of one request and one answer."""
    found = []
    for name, covered in covered_methods().items():
        method = implementation(name) if covered else None
        inner = getattr(method, "__wrapped__", None)
        if inner is not None and inspect.iscoroutinefunction(inner):
            found.append((name, typing.get_type_hints(inner)["return"]))
    return found


@pytest.mark.parametrize(("name", "answer"), _answers(), ids=lambda value: value if isinstance(value, str) else "")
def test_methods_answer_what_the_protocol_says(name: str, answer: Any) -> None:
    servicer = type("Bare", (ModalClientBase,), dict.fromkeys(ModalClientBase.__abstractmethods__, unary))()
    mapping = servicer.__mapping__()
    assert mapping[f"/modal.client.ModalClient/{name}"].reply_type is answer
