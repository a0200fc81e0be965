"""Local servers of this account and of another, ordinary one, as far as it can be had here."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from skyrl_magic.loopback.daemon import ServerAddress, find_server

#: The number of a user whom no machine has.
ORDINARY_UID = 61300
REPOSITORY = Path(__file__).resolve().parents[2]


def as_ordinary_user() -> list[str]:
    """The words in front of a command that run it as an ordinary user; none where this account is one.

    This checkout and its Python may lie in a folder that is root's alone: he sees them there, and nothing beside them.
    """
    if os.geteuid() != 0:
        return []
    words = ["bwrap", "--cap-add", "ALL", "--dev-bind", "/", "/"]
    needed = {REPOSITORY, *(Path(name) for name in (sys.prefix, sys.base_prefix))}
    closed = {path: _closed(path) for path in sorted(needed | {path.resolve() for path in needed})}
    for top in sorted({folder for folder in closed.values() if folder is not None}):
        words += ["--tmpfs", str(top)]
    for path, folder in closed.items():
        if folder is not None:
            for parent in reversed(path.relative_to(folder).parents[:-1]):
                words += ["--dir", str(folder / parent)]
            words += ["--ro-bind", str(path), str(path)]
    return [*words, "--", "setpriv", f"--reuid={ORDINARY_UID}", f"--regid={ORDINARY_UID}", "--clear-groups"]


def _closed(path: Path) -> Path | None:
    """The first folder on the way that others cannot enter, or None."""
    return next(
        (folder for folder in reversed((path, *path.parents)) if not folder.stat().st_mode & stat.S_IXOTH), None
    )


@contextlib.contextmanager
def ordinary_folder() -> Iterator[Path]:
    """A new folder that belongs to the ordinary user: below /tmp, as pytest's own folders are closed to him."""
    with tempfile.TemporaryDirectory(prefix="skyrl-", dir="/tmp", ignore_cleanup_errors=True) as name:
        if os.geteuid() == 0:
            os.chown(name, ORDINARY_UID, ORDINARY_UID)
        yield Path(name)


def ordinary_env(home: Path) -> dict[str, str]:
    """An environment whose folders are all his."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "SKYRL_", "MODAL_"))}
    return {**kept, "HOME": str(home), "TMPDIR": str(home), "USER": "ordinary", "PYTHONPATH": str(REPOSITORY)}


@contextlib.contextmanager
def ordinary_server() -> Iterator[ServerAddress]:
    """A local server that an ordinary user has started."""
    words = as_ordinary_user()
    with ordinary_folder() as home:
        state_dir = home / "state"
        server = [*words, sys.executable, "-m", "skyrl_magic.loopback", "--state-dir", str(state_dir)]
        env = ordinary_env(home)
        subprocess.run(server, cwd=home, env=env, stdout=subprocess.DEVNULL, check=True, timeout=60)
        try:
            address = find_server(state_dir)
            assert address is not None
            yield address
        finally:
            subprocess.run([*server, "--stop"], cwd=home, env=env, capture_output=True, check=True)
