"""Where this machine's programs are. Standard library only, and light: a keeper imports it."""

from __future__ import annotations

import shutil

#: Where a Linux system has its programs; also the ``PATH`` of every sandbox.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find(name: str) -> str | None:
    """The program's path, or None if it is not installed.

    Whoever started the server may have had a poor ``PATH``, and the server serves others too: so the system's folders
    count also where they are not on it.
    """
    return shutil.which(name) or shutil.which(name, path=SYSTEM_PATH)
