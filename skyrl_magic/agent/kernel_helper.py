"""What the relay asks of the kernel between cells; it lives in the kernel's process, under a private name."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from skyrl_magic.core import variables

#: Where the files of variables lie; set when the kernel starts.
blobs = Path()
_changed: List[Tuple[Dict[str, Optional[str]], str]] = []


def enter(env: Dict[str, str], workdir: str) -> None:
    """Give the next cell environment variables and a working directory of its own. Raises ``OSError``."""
    before = os.getcwd()  # noqa: PTH109
    if workdir:
        try:
            os.chdir(workdir)
        except FileNotFoundError:
            raise OSError(f"the working directory {workdir} does not exist") from None
        except NotADirectoryError:
            raise OSError(f"the working directory {workdir} is no folder") from None
        except OSError as error:
            raise OSError(f"the working directory {workdir} cannot be used: {error.strerror}") from None
    _changed.append(({name: os.environ.get(name) for name in env}, before))
    os.environ.update(env)


def leave() -> None:
    """Undo :func:`enter`."""
    env, workdir = _changed.pop()
    for name, value in env.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    os.chdir(workdir)


def warm_up() -> None:
    """Make ready for the first Tab, beside the cells: it imports for a second, and a key press waits 0.2 s."""
    threading.Thread(target=_import_completer, name="completer", daemon=True).start()


def _import_completer() -> None:
    with contextlib.suppress(Exception):  # IPython completes without it too
        importlib.import_module("jedi").Interpreter("name.", [{"name": ""}]).complete()


class Answer:
    """What the client is told, as the JSON of a Jupyter message. It has an ``error``, one line, or none."""

    def __init__(self, **content: Any) -> None:
        self.content = content

    def _repr_json_(self) -> Dict[str, Any]:
        return self.content


def receive(blob: str, pickled: List[str]) -> Answer:
    """Set the variables in a file, all of them or none; those that are ``pickled`` may run code."""
    try:
        with (blobs / blob).open("rb") as file:
            values = variables.unpack(file, pickled)
        _shell().push(values)
    except (variables.VariableProblem, OSError, MemoryError) as error:
        return Answer(error=_line(error))
    return Answer()


def send(blob: str, names: List[str], max_bytes: int, as_pickle: bool) -> Answer:  # noqa: FBT001  (spelt in a message)
    """Write variables into a file; the rest as for ``variables.pack``."""
    try:
        values = variables.find(_shell().user_ns, names, "in the session's kernel")
        packed = variables.pack(values, max_bytes, as_pickle=as_pickle)
        with (blobs / blob).open("r+b") as file:
            file.writelines(packed.pieces)
    except (variables.VariableProblem, OSError, MemoryError) as error:
        return Answer(error=_line(error))
    return Answer(size_bytes=packed.size_bytes, pickled=list(packed.pickled))


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"the container's disk says: {error.strerror}"
    return str(error) if isinstance(error, variables.VariableProblem) else f"{type(error).__name__}: {error}"


def _shell() -> Any:
    from ipykernel.zmqshell import ZMQInteractiveShell

    return ZMQInteractiveShell.instance()
