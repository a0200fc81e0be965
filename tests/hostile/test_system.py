"""Nothing but ``make apt`` installs a package of the system, whoever runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "tools/debian_packages.sh"
TARGETS = ("install", "lock", "checkout", "demo", "lab", "test", "live", "bench", "faults")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder of programs with an apt-get that only notes what it was asked for, and an ``id`` that says root."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "mktemp", "rm", "tail"):
        (programs / name).symlink_to(shutil.which(name) or name)
    for name, script in (("apt-get", f'echo "$@" >>{tmp_path}/asked'), ("id", "echo 0")):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        (programs / name).chmod(0o755)
    return programs


def look(machine: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": str(machine)}
    return subprocess.run(["/bin/sh", SCRIPT, *words], env=env, capture_output=True, text=True, check=False)


def test_what_is_missing_is_named_and_not_installed(machine: Path) -> None:
    looked = look(machine, "sh=dash", "bwrap=bubblewrap", "slirp4netns=slirp4netns")
    assert looked.returncode == 1
    assert not (machine.parent / "asked").exists()
    for said in ("bubblewrap makes the local backend's sandboxes", "slirp4netns", "Nothing was installed", "make apt"):
        assert said in looked.stderr
    assert "dash" not in looked.stderr
    assert look(machine, "sh=dash").returncode == 0


def test_who_says_so_has_it_installed(machine: Path) -> None:
    assert look(machine, "--install", "bwrap=bubblewrap").returncode == 0
    assert (machine.parent / "asked").read_text("utf-8").splitlines()[-1].endswith("--no-install-recommends bubblewrap")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", [*TARGETS, "apt"])
def test_only_make_apt_installs(target: str) -> None:
    # As in a fresh clone: all that could be made would be made.
    make = ["make", "--dry-run", "--always-make", "--no-print-directory", target]
    commands = subprocess.run(make, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert ("--install" in commands) == (target == "apt")
    assert "apt-get" not in commands
