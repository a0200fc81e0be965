"""What the relay asks of the kernel between cells; it lives in the kernel's process, under a private name."""

from __future__ import annotations

import os
from typing import Dict, List, Optional, Tuple

_changed: List[Tuple[Dict[str, Optional[str]], str]] = []


def enter(env: Dict[str, str], workdir: str) -> None:
    """Give the next cell environment variables and a working directory of its own."""
    _changed.append(({name: os.environ.get(name) for name in env}, os.getcwd()))  # noqa: PTH109
    os.environ.update(env)
    if workdir:
        os.chdir(workdir)


def leave() -> None:
    """Undo :func:`enter`."""
    env, workdir = _changed.pop()
    for name, value in env.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    os.chdir(workdir)
