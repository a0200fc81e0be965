"""What became of the last session of this name, by the catalogs on the volume: for who did not see its end."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import NamedTuple

from skyrl_magic.agent.config import Config
from skyrl_magic.agent.volume_tree import VolumeTree
from skyrl_magic.core import protocol
from skyrl_magic.core.protocol.catalog import MAX_CATALOG_BYTES, SUFFIX, read_catalog

#: Its session's name, and when that began.
_CATALOG = re.compile(r"(.+)-([0-9]{1,12})" + re.escape(SUFFIX))
_NO_WORD = "nobody could say why: it was killed, or its memory was full"


class Earlier(NamedTuple):
    """How the session before this one ended."""

    reason: str = ""
    """Empty where there was none, or nothing is known of it."""
    ago_s: float = 0.0
    """How long ago; 0 where it was killed, and nobody knows when."""


def find_earlier(config: Config) -> Earlier:
    """Look into the newest catalog of the session's name. A name is taken once in an app: that session is over."""
    tree = VolumeTree(Path(config.volume_dir))
    try:
        times = [_started_at(name, config.session) for name in tree.entries(protocol.CATALOGS)]
        newest = f"{config.session}-{max(times, default=0)}{SUFFIX}"
        catalog = read_catalog(tree.read(protocol.CATALOGS, newest, MAX_CATALOG_BYTES))
    except (OSError, ValueError):  # there is none, or it is anybody's
        return Earlier()
    finally:
        tree.close()
    if catalog.app != config.about.get("app", ""):
        return Earlier()
    if catalog.ended_at is None:
        return Earlier(_NO_WORD)
    return Earlier(catalog.reason, time.time() - catalog.ended_at)


def _started_at(file_name: str, session: str) -> int:
    """When the session of this name began that a catalog is of, in Unix time; 0 for another one's."""
    match = _CATALOG.fullmatch(file_name)
    return int(match[2]) if match is not None and match[1] == session else 0
