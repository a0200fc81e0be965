"""Tell the local server which of Modal's known answers to give (``skyrl_magic.loopback.answers``)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skyrl_magic.loopback.answers import FILE_NAME, Answers
from skyrl_magic.loopback.documents import write_json


@contextlib.contextmanager
def answering(state_dir: Path, **answers: Any) -> Iterator[None]:
    """Have the server of this folder give these answers within the block."""
    Answers(**answers)
    path = state_dir / FILE_NAME
    write_json(path, answers)
    try:
        yield
    finally:
        path.unlink()
