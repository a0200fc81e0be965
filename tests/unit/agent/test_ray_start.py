"""The start of Ray's head, with a command of ours in its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from skyrl_magic.agent.ray_start import READY, RayStart


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of a ``ray`` that prints its PYTHONPATH."""
    command = tmp_path / "bin" / "ray"
    command.parent.mkdir()
    command.write_text('#!/bin/sh\necho "path=$PYTHONPATH"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    return tmp_path / "ray.log"


def start(log: Path, packages: list[str]) -> str:
    ray = RayStart(log, packages)
    ray.start()
    pid, status = os.waitpid(ray._pid, 0)
    assert ray.reaped(pid, status)
    assert ray.state == READY
    return log.read_text().strip()


def test_tasks_find_the_checkouts_packages(log: Path, tmp_path: Path) -> None:
    root, gym = tmp_path / "SkyRL", tmp_path / "SkyRL" / "skyrl-gym"
    (gym / "skyrl_gym").mkdir(parents=True)
    assert start(log, [str(root), str(gym)]) == f"path=/mine:{root}:{gym}"


def test_a_folder_that_hides_a_module_of_python_is_left_out(log: Path, tmp_path: Path) -> None:
    root, gym = tmp_path / "SkyRL", tmp_path / "SkyRL" / "skyrl-gym"
    gym.mkdir(parents=True)
    (root / "random.py").touch()
    assert start(log, [str(root), str(gym)]) == f"path=/mine:{gym}"
