from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools import live_report
from tools.live_report import Facts, Outcome, read_outcomes, redacted, report

FACTS = Facts("none", is_modal=True, began_at=0.0, left=1)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("token ak-AbCdEf123456 and as-x_y-z12345", "token … and …"),
        ("Bearer eyJhbGciOi.eyJzdWIi.s1g_n-", "Bearer …"),
        ("sb-0123456789abcdefABCDEF ended", "sb-… ended"),
        ("container ID ta-0123456789ABCDEFGHIJKLMNOPV not found", "container ID ta-… not found"),
        ("ann.b+c@example.org owns it", "… owns it"),
        ("https://store/x?X-Signature=abcdef0123456789", "https://store/x?…"),
        ("in /home/ann/project of ann", "in …/project of …"),
        ("as-is, an ap-ple and step 3", "as-is, an ap-ple and step 3"),
    ],
)
def test_secrets_ids_and_names_are_hidden(text: str, clean: str) -> None:
    assert redacted(text, ["/home/ann", "ann"]) == clean


def test_what_a_report_says() -> None:
    tests = [
        Outcome("test_a::test_one[modal]", "passed", 1.25),
        Outcome("test_a::test_two[modal]", "failed", 2.0, "E1 ak-123456789\nE2\nE3\nE4"),
        Outcome("test_a::test_three[modal]", "skipped", 0.0, "no GPU"),
    ]
    text = report(FACTS, tests, [])
    assert "- 1970-01-01 00:00 UTC, 3 s of tests, --gpu none, Modal's own server" in text
    assert "- 1 passed, 1 failed, 0 error, 1 skipped" in text
    assert "| test_a::test_one[modal] | passed | 1.2 |" in text
    assert "## test_a::test_two[modal]\n\n```\nE1 …\nE2\nE3\n```" in text
    assert "E4" not in text
    assert "containers that were left and ended: 1" in text
    assert "ended before its first test" in report(FACTS, [], [])


_SUITE = """
import pytest

def test_good(): pass

def test_bad(): assert 1 == 2, "not so"

def test_skipped(): pytest.skip("no GPU")

@pytest.fixture
def broken(): raise OSError("no disk")

def test_error(broken): pass
"""


def test_outcomes_are_read_from_what_pytest_writes(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text(_SUITE)
    outcomes = tmp_path / "x.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={outcomes}", "test_x.py"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=120)
    found = {test.name.rpartition("::")[2]: test for test in read_outcomes(outcomes)}
    assert {name: test.outcome for name, test in found.items()} == {
        "test_good": "passed",
        "test_bad": "failed",
        "test_skipped": "skipped",
        "test_error": "error",
    }
    assert found["test_bad"].error.startswith("AssertionError: not so")
    assert "no disk" in found["test_error"].error
    assert read_outcomes(tmp_path / "none.xml") == []


def test_the_accounts_secrets_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-very-secret")
    assert "as-very-secret" in live_report.secrets_here()
