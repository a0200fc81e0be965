"""The Python kernel's own process: ipykernel, with a quick stdout and output that stays with its cell.

It runs in the kernel's interpreter, with the user's packages. What is ours leaves ``sys.path`` and ``sys.modules``
before the first cell, but for one module under a private name (:data:`HELPER_NAME`), through which the relay sets a
cell's environment and moves variables.
"""

from __future__ import annotations

import contextvars
import functools
import os
import signal
import sys
import threading
from collections import defaultdict
from io import StringIO
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import zmq
from ipykernel.iostream import OutStream
from ipykernel.kernelapp import IPKernelApp
from traitlets import Type

from skyrl_magic.agent import kernel_helper, kernel_magics, procs
from skyrl_magic.agent import paths as paths_of_agent
from skyrl_magic.agent.kernel_end import Kernel
from skyrl_magic.agent.kernel_pipes import ByteStream, CellPipes, Header, Reader
from skyrl_magic.agent.kernel_ray import PRINTING_THREADS, RayOutput

#: The name under which user code could, but need not, import :mod:`skyrl_magic.agent.kernel_helper`.
HELPER_NAME = "_skyrl_kernel"
_STREAM_NAME = "_skyrl_kernel_stream"
#: So much text waits for the sender at most, in characters; then ``print`` waits too, and memory stays flat.
_MAX_WAITING_CHARS = 2_000_000
#: Text of so many characters travels to the relay as bytes. More than late output may show (``agent.late``).
_LARGE_CHARS = 64_000
RAY_OUTPUT = RayOutput()


class Stream(OutStream):
    """ipykernel's stream with a short way for what one cell prints in a row.

    The original hashes its cell's header at each write, which makes ``print`` three times slower than this.
    """

    _reader = Reader()

    def __init__(self, *args: Any, **options: Any) -> None:
        self._cell: Optional[Dict[str, Any]] = None
        self._cell_buffer = StringIO()
        self._waiting_chars = 0
        self._pipes: Optional[CellPipes] = None
        super().__init__(*args, **options)
        self.buffer = ByteStream(self, lambda: self.parent_header, self._write_for)
        os.register_at_fork(before=self._send, after_in_child=self._forget)

    def _setup_stream_redirects(self, name: str) -> None:
        """What comes through the descriptor is read by :class:`Reader`, and is not copied to the kernel's log."""
        self._should_watch = False
        self._fd: int = getattr(sys, f"__{name}__").fileno()
        self._original_stdstream_copy = os.dup(self._fd)
        self._pipes = CellPipes(self._fd, self._reader, self._write_for)
        self._pipes.begin({})

    def fileno(self) -> int:
        """The descriptor that processes inherit: what is written there is shown."""
        return self._fd

    def set_parent(self, parent: Dict[str, Any]) -> None:
        """A cell begins, or another request."""
        super().set_parent(parent)
        header: Header = self.parent_header
        if self._pipes is not None and header.get("msg_type") == "execute_request":
            self._pipes.begin(header)

    def flush(self) -> None:
        """With what came through the descriptor by now."""
        if self._pipes is not None and self._is_master_process():
            self._pipes.drain()
        super().flush()

    def _send(self) -> None:
        """Before a fork: what the parent has printed comes before what the child prints."""
        if self._is_master_process():
            super().flush()

    def _forget(self) -> None:
        """In a forked child: what waits is its parent's to send, and so is the thread that may have had the lock."""
        self._buffer_lock = threading.RLock()
        self._buffers = defaultdict(StringIO)
        self._cell, self._pipes = None, None

    def _flush_buffers(self) -> Any:
        """With half surrogate pairs, which no message can hold, written out; much text is sent here."""
        for parent, text in super()._flush_buffers():
            sendable = text if text.isascii() else _encodable(text)
            if len(sendable) < _LARGE_CHARS:
                yield parent, sendable
            else:
                self._send_large(parent, sendable)

    def _send_large(self, parent: Header, text: str) -> None:
        """As a buffer of the message: the relay needs it as bytes, and JSON would cost more than all the rest."""
        self.session.pid = os.getpid()  # as the original does: the sending thread is safe after a fork
        message = self.session.msg("stream", {"name": self.name, "text": ""}, parent=parent)
        data = text.encode("utf-8", "surrogateescape")
        self.session.send(self.pub_thread, message, ident=self.topic, buffers=[data])

    def _write_for(self, text: str, header: Header) -> None:
        """Write for another cell than the thread's own."""
        token = self._parent_header.set(header)
        try:
            self.write(text)
        finally:
            self._parent_header.reset(token)

    def write(self, string: str) -> Optional[int]:  # type: ignore[override]
        """As the original does."""
        try:
            parent: Dict[str, Any] = self._parent_header.get()
        except LookupError:
            parent = self._parent_header_global
        # In a forked child there is no cell: it always takes the long way.
        if parent is not self._cell or not isinstance(string, str):
            return self._write_anew(string, self.parent_header)
        with self._buffer_lock:
            if parent is not self._cell:  # flushed since it was looked at
                return self._write_anew(string, parent)
            self._cell_buffer.write(string)
            self._waiting_chars += len(string)
        if self._waiting_chars > _MAX_WAITING_CHARS:
            super().flush()
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
                    self._cell, self._cell_buffer, self._waiting_chars = parent, buffer, buffer.tell()
        return count

    def _rotate_buffers(self) -> Any:
        with self._buffer_lock:
            self._cell = None
            return super()._rotate_buffers()


def _encodable(text: str) -> str:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


class KernelApp(IPKernelApp):
    """An ipykernel none of whose outputs is dropped: the relay's journal takes them all."""

    kernel_class: Any = Type(Kernel, klass="ipykernel.kernelbase.Kernel")

    def init_iopub(self, context: Any) -> None:
        """Without a bound on what waits for the relay (the socket's default drops what is over 1000 messages)."""
        context.setsockopt(zmq.SNDHWM, 0)
        super().init_iopub(context)

    def init_shell(self) -> None:
        """With what the cells' Ray workers print, and magics that are not for here."""
        super().init_shell()
        kernel_magics.register(self.shell)
        events: Any = self.shell.events  # type: ignore[union-attr]
        events.register("pre_run_cell", RAY_OUTPUT.cell_begins)
        events.register("post_run_cell", RAY_OUTPUT.cell_ends)

    def start(self) -> None:
        """Streams that a cell has put something before still hear which cell runs."""
        shell: Any = self.shell
        streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, Stream)]

        def tell(_: Any) -> None:
            for stream in streams:
                if stream not in (sys.stdout, sys.stderr):
                    stream.set_parent(shell.parent_header)

        shell.events.register("pre_run_cell", tell)
        super().start()


def keep_output_with_its_cell() -> None:
    """A thread's output belongs to the cell that started it, also when another one runs by then."""
    start: Callable[[threading.Thread], None] = threading.Thread.start

    def start_in_context(self: threading.Thread) -> None:
        if self.name in PRINTING_THREADS:  # what these print belongs to the newest cell
            RAY_OUTPUT.attach()
            start(self)
            return
        context, run = contextvars.copy_context(), self.run
        # No lambda: it would be a line of each traceback.
        self.run = functools.partial(context.run, run)  # type: ignore[method-assign]
        start(self)

    threading.Thread.start = start_in_context  # type: ignore[method-assign]


def run_kernel(connection_file: str, paths: List[str]) -> None:
    """Be the kernel until it is ended.

    Args:
        connection_file: Jupyter's.
        paths: folders of the checkout's packages, which come after everything on ``sys.path``.
    """
    signal.signal(signal.SIGCONT, lambda *_: None)  # the relay's nudge: it ends a sleep that Python then goes on with
    procs.die_with_parent()  # a relay that is killed must not leave a kernel that nobody hears
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
