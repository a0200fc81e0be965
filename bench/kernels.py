"""A real ipykernel, and what one cell in it cost."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

#: Bound on one cell, in seconds; a cell that takes so long ends the benchmark.
CELL_TIMEOUT_S = 300
_SHOWN = ("stream", "display_data", "update_display_data", "execute_result")


class CellFailed(Exception):
    """A cell of the benchmark raised; the message has its traceback."""


@dataclass
class Cell:
    """What a cell took and sent."""

    took_s: float = 0.0
    """From the request to the kernel's ``idle``, as a front end sees it."""
    messages: int = 0
    """Messages with output: streams and displays."""
    shown_bytes: int = 0
    streams: list[str] = field(default_factory=list)
    displays: list[tuple[float, str]] = field(default_factory=list)
    """Arrival (seconds after the request) and text of each display and of each update of one."""
    error: str = ""
    interrupted_at: float = 0.0
    """When the kernel was interrupted, on the clock of ``time.perf_counter``."""

    @property
    def text(self) -> str:
        """Everything that its streams had."""
        return "".join(self.streams)


class Kernel:
    """A kernel and its client; :meth:`close` ends it.

    Args:
        folder: the kernel's working folder.
        sockets: a folder for its sockets, with a short path.
        env: its whole environment.
    """

    def __init__(self, folder: Path, sockets: Path, env: dict[str, str]) -> None:
        self.manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(sockets / f"k{id(self)}"))
        self.manager.start_kernel(cwd=str(folder), env=env)
        self._client: BlockingKernelClient = self.manager.client()
        # Without bound: by default a flood of messages drops some on the way, the cell's end among them.
        self._client.context.setsockopt(zmq.RCVHWM, 0)
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)
        self.pid = int(self.run("import os; print(os.getpid())").text)

    def run(self, code: str, *, interrupt_at: str = "", may_fail: bool = False) -> Cell:
        """Execute a cell; interrupt the kernel once, when ``interrupt_at`` was shown.

        Raises:
            CellFailed: it raised, and ``may_fail`` does not allow that.
        """
        cell = Cell()
        began = time.perf_counter()

        def hear(message: dict[str, Any]) -> None:
            _take(cell, message, time.perf_counter() - began)
            if interrupt_at and not cell.interrupted_at and interrupt_at in cell.text:
                cell.interrupted_at = time.perf_counter()
                self.manager.interrupt_kernel()

        self._client.execute_interactive(code, timeout=CELL_TIMEOUT_S, output_hook=hear)
        cell.took_s = time.perf_counter() - began
        if cell.error and not may_fail:
            raise CellFailed(f"{code}\n{cell.error}")
        return cell

    def rss_bytes(self) -> int:
        """The resident memory of the kernel's process."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def close(self) -> None:
        """End the kernel."""
        self._client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


def _take(cell: Cell, message: dict[str, Any], at_s: float) -> None:
    kind, content = message["msg_type"], message["content"]
    if kind == "error":
        cell.error = "\n".join(content["traceback"])
    if kind not in _SHOWN:
        return
    text = content["text"] if kind == "stream" else content["data"].get("text/plain", "")
    cell.messages += 1
    cell.shown_bytes += len(text.encode("utf-8", "surrogatepass"))
    if kind == "stream":
        cell.streams.append(text)
    else:
        cell.displays.append((at_s, text))
