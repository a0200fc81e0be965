"""Which notebook this is: its runs are told from those of others, also after a restart of its kernel."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping
from typing import Any

from IPython.core.getipython import get_ipython

#: Where VS Code says which file it is, among the notebook's variables.
_VSCODE = "__vsc_ipynb_file__"
_JUPYTER, _COLAB = "JPY_SESSION_NAME", "COLAB_NOTEBOOK_ID"
#: Stands for a process that nobody names: a terminal, a script, papermill, nbclient. The next one is another.
_process = f"{os.getpid()} {uuid.uuid4().hex}"


def notebook_key() -> str:
    """What stands for this notebook in its sessions; no path can be read from it.

    A notebook is the same when its kernel is new; where nothing names one, the process stands for itself. The folder
    never does: two notebooks of one folder would have each other's runs.
    """
    name = _name(get_ipython(), os.environ, _parents_environment) or _process
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _name(shell: Any, environ: Mapping[str, str], parents: Any) -> str:
    """What names the notebook; empty where nothing does.

    What Jupyter Server says to a kernel is inherited by all that the kernel starts (``!papermill``, ``!ipython``):
    there it names another notebook, and the parent has the same.
    """
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return ""
    path = shell.user_ns.get(_VSCODE)
    if isinstance(path, str) and path:
        return path
    if type(kernel).__module__.startswith("google.colab") and environ.get(_COLAB):
        return environ[_COLAB]
    name = environ.get(_JUPYTER, "")
    return "" if not name or name == parents().get(_JUPYTER) else name


def _parents_environment() -> Mapping[str, str]:
    """The environment that the parent process was started with; empty where it cannot be read."""
    import psutil  # of ipykernel, where this is a kernel

    try:
        found: Mapping[str, str] = psutil.Process(os.getppid()).environ()
    except (psutil.Error, OSError):
        return {}
    return found
