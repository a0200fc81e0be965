"""Packs the agent into one file that any Python from 3.8 on runs; used by the client, not in the container."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Optional

from skyrl_magic.core.protocol import SESSION_ENDS

_PACKAGE = Path(__file__).resolve().parent.parent
#: The syntax of any Python 3: who has an old one is told so.
_MAIN = f"""\
import sys
if sys.version_info < (3, 8):
    found = "%d.%d" % sys.version_info[:2]
    sys.exit("skyrl_magic: {SESSION_ENDS}the python3 of its image is " + found
             + ": choose an --image with Python 3.8 or newer")
if sys.argv[1:2] == ["supervise"]:
    from skyrl_magic.agent import watchdog
    watchdog.guard()  # before anything else is read: the process that watches stays small
from skyrl_magic.agent.__main__ import main
sys.exit(main())
""".encode("ascii")
#: The earliest date that a zip can hold: the same sources make the same bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def build_agent(dest: Optional[Path] = None) -> Path:
    """Write the agent's zipapp and return its path.

    The same sources give the same bytes on every machine (nothing is compressed, no dates), so its SHA-256 names the
    agent, and a mount of it is uploaded once.

    Args:
        dest: the file to write; by default one in the user's cache folder that has the hash in its name.
    """
    data = _pack()
    if dest is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        dest = cache / "skyrl_magic" / f"agent-{hashlib.sha256(data).hexdigest()[:16]}.pyz"
        if dest.is_file() and dest.read_bytes() == data:
            return dest
    dest.parent.mkdir(parents=True, exist_ok=True)
    temporary = dest.with_name(f"{dest.name}.{os.getpid()}")
    temporary.write_bytes(data)
    return temporary.replace(dest)


def _pack() -> bytes:
    members = {"__main__.py": _MAIN, "skyrl_magic/__init__.py": b"", "skyrl_magic/core/__init__.py": b""}
    sources = [path for path in (_PACKAGE / "agent").glob("*.py") if path.name != Path(__file__).name]
    shared = [path for name in ("protocol", "variables") for path in (_PACKAGE / "core" / name).glob("*.py")]
    for path in (*sources, *shared):
        members[path.relative_to(_PACKAGE.parent).as_posix()] = path.read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3  # Unix, wherever it is built
            info.external_attr = 0o644 << 16
            archive.writestr(info, members[name])
    return packed.getvalue()
