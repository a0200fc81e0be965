"""Which Python a sandbox has: the one of the notebook that asks for it, whoever started the server."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from skyrl_magic.loopback.runtime.rootfs import RootfsError
from skyrl_magic.loopback.runtime.spec import CONTROL_DIR, PREFIXES_VARIABLE

#: Folders that a sandbox has for itself.
_OWN_DIRS = (Path("/proc"), Path("/dev"), Path(CONTROL_DIR))


def prefixes(env: Mapping[str, str]) -> list[Path]:
    """The folders of the Python that a sandbox with this environment is to have; the first is its own.

    Raises:
        RootfsError: The environment names a folder that cannot be one of them.
    """
    named = env.get(PREFIXES_VARIABLE)
    return _own() if named is None else [_checked(name) for name in named.split(os.pathsep)]


def _own() -> list[Path]:
    return [Path(sys.prefix), Path(sys.base_prefix)]


def _checked(name: str) -> Path:
    path = Path(name)
    if not path.is_absolute() or ".." in path.parts:
        raise RootfsError(f"{PREFIXES_VARIABLE}: {name!r} is not an absolute path")
    if not path.is_dir():
        raise RootfsError(f"{PREFIXES_VARIABLE}: there is no directory {name}")
    resolved = path.resolve()
    if any(resolved.is_relative_to(own) or own.is_relative_to(resolved) for own in _OWN_DIRS):
        raise RootfsError(f"{PREFIXES_VARIABLE}: {name} would hide the sandbox's own files")
    # Whose they are does not matter: the notebook runs from them already, and the sandbox sees them read-only. But who
    # has the token may not have any folder of the machine shown.
    if not _is_pythons(resolved):
        raise RootfsError(
            f"{PREFIXES_VARIABLE}: {name} is no folder of a Python: it has no bin/python3 and lib/python3.*"
        )
    return path


def _is_pythons(folder: Path) -> bool:
    return (folder / "bin" / "python3").exists() and any(folder.glob("lib/python3.*"))
