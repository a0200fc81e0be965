"""The table of the fault suite, from its results."""

# ruff: noqa: RUF001  # the table has the sign of ranges

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from bench import reliability
from tests.faults.ledger import RESULTS_VARIABLE, Ledger


def rows(folder: Path) -> list[dict[str, object]]:
    """The results in ``folder``, as the command completes them."""
    found = [json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))]
    return [row | {"on": "2026-01-01", "load": "0.1, 0.2", "code": "abc"} for row in found]


def test_a_row_has_its_tries_and_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RESULTS_VARIABLE, str(tmp_path))
    ledger = Ledger(1, "fault", "must", full=3, short=1)
    for number in ledger:
        with ledger.trial():
            ledger.figure("took", number + 0.5, "s")
            ledger.figure("left", 0)
    page = reliability.render(rows(tmp_path))
    assert "1 of 1 rows held in every try." in page
    assert (
        "| fault | 3 | must | 3 of 3 | took: 0.5 – 1.5 – 2.5 s; left: 0 | 2026-01-01, 0 min, load 0.1, 0.2, code abc |"
        in page
    )


def test_what_did_not_hold_is_counted_and_named_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RESULTS_VARIABLE, str(tmp_path))
    ledger = Ledger(2, "fault", "must", full=4, short=1)
    tries = iter(ledger)
    for number in islice(tries, 4):
        with ledger.trial():
            assert number != 1, "lost"
    with pytest.raises(AssertionError, match="try 2: lost"):
        next(tries)
    page = reliability.render(rows(tmp_path))
    assert "0 of 1 rows held in every try." in page
    assert "**3 of 4**" in page
    assert "- fault: try 2: lost" in page


def test_in_the_short_form_a_try_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RESULTS_VARIABLE, raising=False)
    ledger = Ledger(3, "fault", "must", full=4, short=2)
    tries = iter(ledger)
    assert next(tries) == 0
    with pytest.raises(AssertionError, match="lost"), ledger.trial():
        raise AssertionError("lost")
    assert [*tries] == [1]
