"""What a Python cell asks of the front end besides showing something: input, a page of help, the next cell's text."""

from __future__ import annotations

import getpass
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from IPython.core.getipython import get_ipython

from skyrl_magic.core.errors import CellError, SkyRLMagicError
from skyrl_magic.ui.cell_records import current_record

#: The payloads of a Jupyter reply that concern a notebook (``exit`` ends the session's kernel, not this one).
_PAYLOADS = ("page", "set_next_input")


def can_ask() -> bool:
    """Whether the front end of this cell can answer ``input()``."""
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is None or bool(getattr(kernel, "_allow_stdin", False))


def ask(prompt: str, *, password: bool) -> str:
    """Ask the user. Raises KeyboardInterrupt."""
    record = current_record()
    if record is not None:
        record.lose()  # a front end shows question and answer beside what we have sent
    # In a kernel both are its own, which ask the front end.
    return getpass.getpass(prompt) if password else input(prompt)


def execution_count() -> int | None:
    """The number beside the cell that runs; None outside of IPython."""
    hook = getattr(get_ipython(), "displayhook", None)
    return None if hook is None else int(hook.prompt_count)


class KernelEnd:
    """Hears that this notebook's kernel is asked to end, also while a cell runs: ipykernel has a thread for that."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        shell: Any = get_ipython()
        if getattr(shell, "kernel", None) is not None:
            shell.observe(self._changed, "exit_now")  # set by its handler of ``shutdown_request``

    def _changed(self, change: Mapping[str, Any]) -> None:
        if change["new"]:
            self._asked.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait so long for it; whether it came."""
        return self._asked.wait(timeout_s)


def write_payload(payload: Sequence[Mapping[str, Any]]) -> None:
    """Hand a remote reply's payloads to the local one."""
    shell: Any = get_ipython()
    for item in payload:
        if item.get("source") in _PAYLOADS:
            shell.payload_manager.write_payload(dict(item))


def fails_silently(error: SkyRLMagicError) -> bool:
    """Let the cell that runs fail with an error that was shown already; False where it must be raised to be seen.

    IPython shows what a cell raises, and here the remote kernel has shown all there is: a usage error's one line, say.
    """
    shell: Any = get_ipython()
    if not isinstance(error, CellError) or not error.shown or shell is None:
        return False

    def fail(result: Any) -> None:
        shell.events.unregister("post_run_cell", fail)
        if result.error_in_exec is None:
            result.error_in_exec = error

    shell.events.register("post_run_cell", fail)
    return True
