"""What became of the last session of this name, by the catalogs on the volume: for who did not see its end."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import NamedTuple, Optional

from skyrl_magic.agent.config import Config
from skyrl_magic.core import protocol

_NO_WORD = "nobody could say why: it was killed, or its memory was full"


class Earlier(NamedTuple):
    """How the session before this one ended."""

    reason: str = ""
    """Empty where there was none, or nothing is known of it."""
    ago_s: float = 0.0
    """How long ago; 0 where it was killed, and nobody knows when."""


def _started(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def find_earlier(config: Config) -> Earlier:
    """Look into the newest catalog of the session's name. A name is taken once in an app: that session is over."""
    newest: Optional[Path] = None
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):  # a catalog may be anybody's
        for path in (Path(config.volume_dir) / protocol.CATALOGS).iterdir():
            name, _, started = path.stem.rpartition("-")
            if name == config.session and started.isdigit():
                newest = path if newest is None or _started(path) > _started(newest) else newest
        if newest is not None:
            catalog = json.loads(newest.read_text(encoding="utf-8"))
            if catalog.get("app", "") == config.about.get("app", ""):
                ended_at = catalog["ended_at"]
                return Earlier(_NO_WORD) if ended_at is None else Earlier(catalog["reason"], time.time() - ended_at)
    return Earlier()
