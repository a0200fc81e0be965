from __future__ import annotations

import os
from pathlib import Path

import pytest

from skyrl_magic.agent.unkept import find_unkept

MB = 1_000_000


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("SkyRL/outputs", "data", ".cache/hf", "ckpts/step_1"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def write(path: Path, size_bytes: int, written_at: float = 200.0) -> None:
    path.write_bytes(b"x" * size_bytes)
    os.utime(path, (written_at, written_at))


def unkept(home: Path, ours: dict[str, int] | None = None) -> list[tuple[str, int]]:
    return find_unkept([home / "SkyRL", home], [home / "data"], ours or {}, since=100.0)


def test_folders_beside_the_volume_are_named_by_size(home: Path) -> None:
    write(home / "ckpts" / "step_1" / "model.pt", 3 * MB)
    write(home / "SkyRL" / "outputs" / "log.txt", 4 * MB)
    write(home / "data" / "kept.pt", 9 * MB)
    assert unkept(home) == [(str(home / "SkyRL" / "outputs"), 4 * MB), (str(home / "ckpts"), 3 * MB)]


def test_what_was_there_before_or_sent_by_a_client_is_not(home: Path) -> None:
    write(home / "ckpts" / "old.pt", 3 * MB, written_at=50.0)
    sent = home / "SkyRL" / "big.py"
    write(sent, 2 * MB)
    assert unkept(home, {str(sent): 2 * MB}) == []
    assert unkept(home, {str(sent): MB}) == [(str(sent), 2 * MB)], "a run has changed it"


def test_caches_links_and_little_files_are_not_spoken_of(home: Path) -> None:
    write(home / ".cache" / "hf" / "model.bin", 5 * MB)
    (home / "link").symlink_to(home / ".cache" / "hf")
    write(home / "ckpts" / "note.txt", 10)
    os.mkfifo(home / "ckpts" / "fifo")
    assert unkept(home) == []


def test_a_home_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    assert find_unkept([tmp_path / "nowhere"], [], {}, since=0.0) == []
