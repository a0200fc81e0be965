"""The Python kernel's own process: ipykernel, with a quick stdout and output that stays with its cell.

It runs in the kernel's interpreter, with the user's packages. What is ours leaves ``sys.path`` and ``sys.modules``
before the first cell, but for one module under a private name (:data:`HELPER_NAME`), through which the relay sets a
cell's environment and moves variables.
"""

from __future__ import annotations

import contextvars
import os
import sys
import threading
from io import StringIO
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import zmq
from ipykernel.iostream import OutStream
from ipykernel.kernelapp import IPKernelApp

from skyrl_magic.agent import kernel_helper
from skyrl_magic.agent import paths as paths_of_agent
from skyrl_magic.agent.kernel_ray import PRINTING_THREADS, RayOutput

#: The name under which user code could, but need not, import :mod:`skyrl_magic.agent.kernel_helper`.
HELPER_NAME = "_skyrl_kernel"
_STREAM_NAME = "_skyrl_kernel_stream"
#: So much text waits for the sender at most, in characters; then ``print`` waits too, and memory stays flat.
_MAX_WAITING_CHARS = 4_000_000
RAY_OUTPUT = RayOutput()


class Stream(OutStream):
    """ipykernel's stream with a short way for what one cell prints in a row.

    The original hashes its cell's header at each write, which makes ``print`` three times slower than this.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._cell: Optional[Dict[str, Any]] = None
        self._cell_buffer = StringIO()
        super().__init__(*args, **options)

    def write(self, string: str) -> Optional[int]:  # type: ignore[override]
        """As the original does."""
        parent: Dict[str, Any] = self.parent_header
        if parent is not self._cell or not isinstance(string, str) or not self._is_master_process():
            return self._write_anew(string, parent)
        with self._buffer_lock:
            if parent is not self._cell:  # flushed since it was looked at
                return self._write_anew(string, parent)
            self._cell_buffer.write(string)
            waiting_chars = self._cell_buffer.tell()
        if waiting_chars > _MAX_WAITING_CHARS:
            self.flush()
        if not self._flush_pending:
            self._schedule_flush()
        return len(string)

    def _write_anew(self, string: str, parent: Dict[str, Any]) -> Optional[int]:
        token = self._parent_header.set(parent)
        try:
            count: Optional[int] = super().write(string)
        finally:
            self._parent_header.reset(token)
        if self._is_master_process():
            with self._buffer_lock:
                buffer = self._buffers.get(frozenset(parent.items()))
                if buffer is not None:
                    self._cell, self._cell_buffer = parent, buffer
        return count

    def _rotate_buffers(self) -> Any:
        with self._buffer_lock:
            self._cell = None
            return super()._rotate_buffers()


class KernelApp(IPKernelApp):
    """An ipykernel none of whose outputs is dropped: the relay's journal takes them all."""

    def init_iopub(self, context: Any) -> None:
        """Without a bound on what waits for the relay (the socket's default drops what is over 1000 messages)."""
        context.setsockopt(zmq.SNDHWM, 0)
        super().init_iopub(context)

    def init_shell(self) -> None:
        """With what the cells' Ray workers print."""
        super().init_shell()
        events: Any = self.shell.events  # type: ignore[union-attr]
        events.register("pre_run_cell", RAY_OUTPUT.cell_begins)
        events.register("post_run_cell", RAY_OUTPUT.cell_ends)


def keep_output_with_its_cell() -> None:
    """A thread's output belongs to the cell that started it, also when another one runs by then."""
    start: Callable[[threading.Thread], None] = threading.Thread.start

    def start_in_context(self: threading.Thread) -> None:
        if self.name in PRINTING_THREADS:  # what these print belongs to the newest cell
            RAY_OUTPUT.attach()
            start(self)
            return
        context, run = contextvars.copy_context(), self.run
        self.run = lambda: context.run(run)  # type: ignore[method-assign]
        start(self)

    threading.Thread.start = start_in_context  # type: ignore[method-assign]


def run_kernel(connection_file: str, paths: List[str]) -> None:
    """Be the kernel until it is ended.

    Args:
        connection_file: Jupyter's.
        paths: folders of the checkout's packages, which come after everything on ``sys.path``.
    """
    sys.modules[HELPER_NAME] = kernel_helper
    kernel_helper.blobs = Path(connection_file).parents[2] / paths_of_agent.BLOBS  # state/py/N/kernel.json
    stream = type(sys)(_STREAM_NAME)
    stream.Stream = Stream  # type: ignore[attr-defined]
    sys.modules[_STREAM_NAME] = stream
    keep_output_with_its_cell()
    sys.path = ["", *(path for path in sys.path if path not in ("", sys.argv[0])), *paths]
    for name in [name for name in sys.modules if name.partition(".")[0] == "skyrl_magic"]:
        del sys.modules[name]
    sys.argv = ["ipykernel_launcher", "-f", connection_file]
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    # Ray leaves out what looks like a line of another worker, and in IPython what it held back is lost at a cell's end.
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    options = [
        f"--IPKernelApp.outstream_class={_STREAM_NAME}.Stream",
        "--IPKernelApp.quiet=True",
        "--HistoryManager.enabled=False",
    ]
    KernelApp.launch_instance(["-f", connection_file, *options])
