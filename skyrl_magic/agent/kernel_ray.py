"""What Ray's workers print, in the kernel that started their tasks: under the right cell, complete, bars in place.

Ray's log monitor looks into the workers' log files ten times a second and publishes what is new; a thread of the driver
prints it. So a task's line comes up to a fifth of a second after ``ray.get`` has returned, which without more would be
after the cell. Two things are done about it, both beside Ray's own code:

- The printing thread works in the context of the newest cell (Ray starts it in that of ``ray.init``).
- A cell whose workers have printed ends when that has come. The event for this is a line in a log file of our own,
  which the same monitor reads in its turn: when the second one comes back, each worker's file was read after the
  cell's end.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import queue
import sys
import threading
import time
from io import StringIO
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

#: Ray's threads that print. They are not given the context of the cell that started them.
PRINTING_THREADS = ("ray_print_logs", "ray_listen_error_messages")
#: A cell waits no longer than this for the monitor to take a turn, and for all of its turns together, in seconds.
_TURN_S = 2.0
_MOST_S = 10.0
#: The monitor takes at most 1000 lines of a file in a turn, the names of tasks included: after so many there is more.
_MANY_LINES = 400
#: Lines that the monitor takes for itself (``ray_constants.LOG_PREFIX_…``): a task that printed nothing leaves these.
_NAME_LINES = (b":job_id:", b":task_name:", b":actor_name:")
_LOOK_BYTES = 64 * 1024
#: How the name of our own log file begins; the monitor reads what is called like a worker's.
_MARKS = "worker-skyrl-"
#: ``ray.experimental.tqdm_ray`` sends its bars' states in lines with this.
_RAY_BAR = "__ray_tqdm_magic_token__"

Batch = Dict[str, Any]
#: A process, and whether it is its stderr.
Source = Tuple[Any, Any]


class RayOutput:
    """The output of one kernel's Ray workers."""

    def __init__(self) -> None:
        self._context: Optional[contextvars.Context] = None
        self._token = f"skyrl_magic {os.getpid()} "
        self._marks = 0
        self._waiting = False
        self._came: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._lines: Dict[Source, int] = {}
        self._seen: Dict[str, int] = {}
        self._bars = Bars()
        self._emit: Optional[Callable[[Batch], None]] = None

    def cell_begins(self, *_: Any) -> None:
        """The running context is that of a new cell: what workers print from now on belongs to it."""
        self._context = contextvars.copy_context()

    def attach(self) -> None:
        """Ray's printing thread is about to start: hear what it is to print."""
        dispatcher = sys.modules["ray._private.ray_logging"].global_worker_stdstream_dispatcher
        if self._emit is None:
            self._emit = dispatcher.emit
            dispatcher.emit = self._take

    def cell_ends(self, *_: Any) -> None:
        """Wait until what the workers printed by now is shown."""
        try:
            with contextlib.suppress(Exception):  # a Ray of another making: its lines come when they come
                self._settle()
        except KeyboardInterrupt:
            pass  # the cell itself is over, and Stop ends this wait
        finally:
            self._bars.close()

    # --- the printing thread ---

    def _take(self, batch: Batch) -> None:
        context = self._context.copy() if self._context is not None else contextvars.copy_context()
        context.run(self._show, batch)

    def _show(self, batch: Batch) -> None:
        lines: List[str] = batch.get("lines") or []
        if lines and lines[0].startswith(self._token):
            self._came.put(int(lines[-1].rpartition(" ")[2]))
            return
        source = (batch.get("pid"), batch.get("is_err"))
        self._lines[source] = self._lines.get(source, 0) + len(lines)
        plain: List[str] = []
        for line in lines:
            if "\r" in line and _RAY_BAR not in line:
                self._print(batch, plain)
                self._bars.draw(source, {**batch, "lines": [line.rpartition("\r")[2]]})
            elif line or not self._bars.end(source):
                plain.append(line)
        self._print(batch, plain)

    def _print(self, batch: Batch, lines: List[str]) -> None:
        if lines and self._emit is not None:
            if batch.get("pid") != "autoscaler" and any(_RAY_BAR not in line for line in lines):
                self._bars.close()
            self._emit({**batch, "lines": lines[:]})
            lines.clear()

    # --- the cell's end ---

    def _settle(self) -> None:
        worker = sys.modules.get("ray._private.worker")
        driver = getattr(worker, "global_worker", None)
        thread = getattr(driver, "logger_thread", None)
        if worker is None or driver is None or thread is None or not thread.is_alive() or self._emit is None:
            return
        logs = Path(worker._global_node.get_logs_dir_path())  # noqa: SLF001
        sizes = self._sizes(logs)
        if not self._has_news(sizes):
            self._seen = sizes
            return
        if self._wait_for_turns(logs, driver.current_job_id.hex()):
            self._seen = sizes

    def _sizes(self, logs: Path) -> Dict[str, int]:
        with os.scandir(logs) as entries:
            workers = [entry for entry in entries if entry.name.startswith("worker-")]
            return {entry.path: entry.stat().st_size for entry in workers if not entry.name.startswith(_MARKS)}

    def _has_news(self, sizes: Dict[str, int]) -> bool:
        """Whether a worker has written more than the names of its tasks."""
        for path, size in sizes.items():
            at = self._seen.get(path, 0)
            if size <= at:
                continue
            with Path(path).open("rb") as log:
                log.seek(at)
                data = log.read(min(size - at, _LOOK_BYTES))
            if size - at > _LOOK_BYTES or any(line and not line.startswith(_NAME_LINES) for line in data.split(b"\n")):
                return True
        return False

    def _wait_for_turns(self, logs: Path, job: str) -> bool:
        """Two turns of the monitor, and more while it has much to tell; False where they do not come."""
        if self._waiting and not self._mark_came(0.0):
            return False  # the monitor has not come back from the last time
        until, turn = time.monotonic() + _MOST_S, 0
        while time.monotonic() < until:
            self._lines.clear()
            self._mark(logs, job)
            if not self._mark_came(min(_TURN_S, max(0.0, until - time.monotonic()))):
                return False
            turn += 1
            if turn > 1 and max(self._lines.values(), default=0) < _MANY_LINES:
                return True
        return False

    def _mark(self, logs: Path, job: str) -> None:
        path = logs / f"{_MARKS}{job}-{os.getpid()}.out"
        self._marks += 1
        self._waiting = True
        with path.open("a", encoding="utf-8") as log:
            head = "" if log.tell() else f":job_id:{job}\n"
            log.write(f"{head}{self._token}{self._marks}\n")

    def _mark_came(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self._waiting:
            try:
                number = self._came.get(timeout=max(0.001, deadline - time.monotonic()))
            except queue.Empty:
                return False
            self._waiting = number != self._marks
        return True


class Bars:
    r"""The bars that workers redraw with ``\r``, each on a line of its own that is redrawn here too.

    The monitor hands a bar over in pieces, each of which Ray would print as a line.
    """

    def __init__(self) -> None:
        self._rows: List[Optional[Tuple[Source, str]]] = []
        self._full: Set[Tuple[Source, str]] = set()
        self._lock = threading.Lock()

    def draw(self, source: Source, batch: Batch) -> None:
        """Show the newest state of a bar of ``source``, as ``tqdm`` draws one of several bars."""
        state: str = batch["lines"][0]
        text = StringIO()
        sys.modules["ray._private.worker"].print_worker_logs(batch, text)
        # A worker may draw several, and one after the other: tqdm's differ in what stands before the percents.
        before, percents, _ = state.partition("%|")
        bar = (source, before.rstrip("0123456789 ") if percents else "")
        with self._lock:
            full = before.endswith("100")
            if bar not in self._rows or (bar in self._full and not full):
                self._end([bar])
                self._rows.append(bar)
            if full:
                self._full.add(bar)
            row = self._rows.index(bar)
            drawn = text.getvalue().rstrip("\n")
            sys.stderr.write("\n" * row + f"\r{drawn}\x1b[K" + "\x1b[A" * row)

    def end(self, source: Source) -> bool:
        """The line of a bar of ``source`` is at its end, and stays; False where it has none."""
        with self._lock:
            bars = [bar for bar in self._rows if bar is not None and bar[0] == source]
            self._end(bars)
            return bool(bars)

    def close(self) -> None:
        """What comes next begins below the bars."""
        with self._lock:
            if self._rows:
                sys.stderr.write("\n" * len(self._rows))
                self._rows.clear()
                self._full.clear()

    def _end(self, bars: List[Tuple[Source, str]]) -> None:
        self._rows = [None if bar in bars else bar for bar in self._rows]
        self._full.difference_update(bars)
