from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from skyrl_magic.agent.config import Config
from skyrl_magic.agent.earlier import Earlier, find_earlier
from skyrl_magic.core import protocol


def write(volume: Path, key: str, text: str) -> None:
    folder = volume / protocol.CATALOGS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{key}.json").write_text(text)


def ended(reason: str, ago_s: float = 60.0, app: str = "") -> str:
    return json.dumps({"ended_at": time.time() - ago_s, "reason": reason, "app": app})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config("one", "/state", "/checkout", str(tmp_path))


def test_without_a_session_before_there_is_nothing(config: Config, tmp_path: Path) -> None:
    assert find_earlier(config) == Earlier()
    write(tmp_path, "two-100", ended("another"))
    write(tmp_path, "one-more-100", ended("another"))
    write(tmp_path, "one-x", ended("no time"))
    assert find_earlier(config) == Earlier()


def test_the_newest_of_the_name_counts(config: Config, tmp_path: Path) -> None:
    write(tmp_path, "one-900", ended("idle", 500.0))
    write(tmp_path, "one-1000", ended("its budget was spent", 90.0))
    found = find_earlier(config)
    assert found.reason == "its budget was spent"
    assert found.ago_s == pytest.approx(90, abs=30)


def test_one_that_has_no_end_was_killed(config: Config, tmp_path: Path) -> None:
    write(tmp_path, "one-900", json.dumps({"ended_at": None, "reason": ""}))
    assert find_earlier(config).reason == "nobody could say why: it was killed, or its memory was full"


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", '{"ended_at": "x", "reason": 1}'])
def test_a_damaged_catalog_says_nothing(config: Config, tmp_path: Path, text: str) -> None:
    write(tmp_path, "one-900", text)
    assert find_earlier(config) == Earlier()


def test_another_apps_session_of_the_name_is_another_one(config: Config, tmp_path: Path) -> None:
    write(tmp_path, "one-900", ended("idle", app="other"))
    assert find_earlier(config) == Earlier()
