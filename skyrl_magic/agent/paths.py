"""Where the agent keeps its state, below one folder on the container's own disk."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, List

SUPERVISOR_SOCKET = "supervisor.sock"
SESSION_FILE = "session.json"
CHECKOUT_FILE = "checkout.json"
CHECKOUT_LOCK = "checkout.lock"
RAY_LOG = "ray.log"
#: A folder of files for and from the Python kernel.
BLOBS = "blobs"
#: In a run's folder: the script, what it reads (until it has begun), and the socket that tells watchers that the
#: journal grew.
CELL_FILE = "cell"
STDIN_FILE = "stdin"
NOTIFY_SOCKET = "notify.sock"

#: The checkout's packages, below its root; the root itself has SkyRL's (today's layout).
_PACKAGE_FOLDERS = ("", "skyrl-gym")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def plain_name(name: str) -> bool:
    """Whether ``name`` may be the name of a file or folder of ours: it leads nowhere else."""
    return _PLAIN.fullmatch(name) is not None


def make_state_dir(path: Path) -> None:
    """Make the folder of the agent's state, for this user only."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)


def valid_run_id(run_id: str) -> bool:
    """Whether ``run_id`` may be the name of a run's folder."""
    return plain_name(run_id)


def run_dir(state_dir: Path, run_id: str) -> Path:
    """The folder of a run. Raises ``ValueError`` for a name that no run can have."""
    if not valid_run_id(run_id):
        raise ValueError(f"{run_id!r} cannot be a run's id: letters, digits, '.', '_' and '-', at most 64")
    return state_dir / "runs" / run_id


def package_folders(checkout: Path) -> List[str]:
    """Folders of the checkout's packages, wherever a cell's working directory is."""
    return [str(checkout / name) for name in _PACKAGE_FOLDERS]


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as JSON at one stroke: a reader sees the old or the new one."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps(value, separators=(",", ":")), encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """The JSON value in ``path``. Raises ``OSError`` or ``ValueError``."""
    return json.loads(path.read_text(encoding="utf-8"))
