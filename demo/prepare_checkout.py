"""Lay out the lessons' checkout: skyrl-gym's published sources and our small scripts, in SkyRL's layout.

Usage: ``python -m demo.prepare_checkout build/SkyRL``. Standard library and pip only. Files that are already there and
equal are left alone, so a warm session has nothing to send again; files that someone added stay.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PIN = HERE / "skyrl-gym.txt"
TEMPLATE = HERE / "checkout"


def main(argv: list[str] | None = None) -> None:
    """Prepare the checkout at the path on the command line."""
    parser = argparse.ArgumentParser(description="Prepare the lessons' SkyRL-shaped checkout.")
    parser.add_argument("target", type=Path, help="the checkout's root folder")
    parser.add_argument("--downloads", type=Path, default=Path("build/downloads"), help="where the package is kept")
    args = parser.parse_args(argv)
    target = prepare(args.target, args.downloads)
    print(f"checkout: {target} (skyrl-gym {pinned()[0]})")


def prepare(target: Path, downloads: Path) -> Path:
    """Make or refresh the checkout.

    Args:
        target: its root; made when missing.
        downloads: folder in which the package archive is kept for the next time.

    Returns:
        The absolute path of the checkout.

    Raises:
        SystemExit: the package cannot be downloaded.
    """
    archive = fetch(downloads)
    with tempfile.TemporaryDirectory(prefix="skyrl-gym-") as scratch:
        gym = unpack(archive, Path(scratch))
        copy_changed(gym, target / "skyrl-gym")
    copy_changed(TEMPLATE, target)
    return target.resolve()


def pinned() -> tuple[str, str]:
    """The pinned version of skyrl-gym and the SHA-256 of its source archive."""
    match = re.search(r"^skyrl-gym==(\S+) --hash=sha256:([0-9a-f]{64})$", PIN.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        message = f"{PIN} has no line `skyrl-gym==VERSION --hash=sha256:…`"
        raise SystemExit(message)
    return match[1], match[2]


def fetch(downloads: Path) -> Path:
    """The package's source archive, from ``downloads`` or from the package registry; its hash is checked."""
    version, sha256 = pinned()
    archive = downloads / f"skyrl_gym-{version}.tar.gz"
    if archive.is_file() and hashlib.sha256(archive.read_bytes()).hexdigest() == sha256:
        return archive
    downloads.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--no-binary", "skyrl-gym"]
    command = [*pip, "--require-hashes", "--requirement", str(PIN), "--dest", str(downloads)]
    if subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode:
        message = f"skyrl-gym {version} could not be downloaded (pip's message is above); is the network up?"
        raise SystemExit(message)
    return archive


def unpack(archive: Path, scratch: Path) -> Path:
    """Unpack the archive (its hash is known) and return the folder in it, without build leftovers."""
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(scratch, filter="data")
        else:  # Python 3.10 before 3.10.12
            tar.extractall(scratch)  # noqa: S202 - the archive's hash is pinned
    (folder,) = (path for path in scratch.iterdir() if path.is_dir())
    for name in ("skyrl_gym.egg-info", "PKG-INFO", "setup.cfg"):
        leftover = folder / name
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
    return folder


def copy_changed(source: Path, target: Path) -> None:
    """Copy every file below ``source`` that ``target`` lacks or has with other contents."""
    for path in sorted(source.rglob("*")):
        goal = target / path.relative_to(source)
        if path.is_dir():
            goal.mkdir(parents=True, exist_ok=True)
        elif not goal.is_file() or goal.read_bytes() != path.read_bytes():
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, goal)
            shutil.copymode(path, goal)


if __name__ == "__main__":
    main()
