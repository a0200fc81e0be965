"""The runs of a session: started, signalled and recorded by the supervisor, each in the hands of its shim."""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import signal
import socket
import stat
import time
from pathlib import Path
from typing import Callable, List, Optional, Tuple

from skyrl_magic.agent import paths, procs, reserve
from skyrl_magic.agent.kernels import KernelHost
from skyrl_magic.agent.run import ENDED, LAUNCHED, RUNNING, WAITING, PythonCell, Run
from skyrl_magic.agent.run_store import RunStore
from skyrl_magic.agent.shim import ENDED as SHIM_ENDED
from skyrl_magic.agent.shim import EXIT_NO_BASH, End, RunSpec
from skyrl_magic.agent.shim import STARTED as SHIM_STARTED
from skyrl_magic.agent.spare import Spare
from skyrl_magic.core import protocol

_COMMAND_CHARS = 200
#: So many go into one answer to a client that asks for all: a thousand would take megabytes for a moment.
_LISTED_RUNS = 64
#: What a run ended with whose shim was killed: nobody saw bash's own end.
_LOST_SIGNAL = signal.SIGKILL
#: A Python run without a kernel.
EXIT_NO_KERNEL = 1


class RunTable:
    """All runs of the session, oldest first.

    Args:
        selector: where the shims' sockets are awaited; the data of its keys is a callback that takes the event mask.
        state_dir: where the runs' folders lie.
        changed: called when a run was started or is over.
        kernel: executes the Python cells.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        state_dir: Path,
        changed: Callable[[Run], None],
        kernel: KernelHost,
    ) -> None:
        self._kernel = kernel
        kernel.events = self
        self._selector = selector
        self._state_dir = state_dir
        self._changed = changed
        self._runs = RunStore()
        self._spare: Optional[Spare] = None
        self._spares = itertools.count()
        self.spare_used_at = 0.0
        """By the monotonic clock."""

    def get(self, run_id: str) -> Optional[Run]:
        """The run of this id, or None."""
        return self._runs.get(run_id)

    @property
    def active(self) -> List[Run]:
        """The runs that are not over."""
        return self._runs.active

    @property
    def all(self) -> List[Run]:
        """The runs, oldest first, to be read."""
        return self._runs.part(0)

    @property
    def has_spare(self) -> bool:
        """Whether a shim waits for the next run."""
        return self._spare is not None

    def prepare(self) -> None:
        """Fork the shim of the next run, so that it need not wait for that."""
        if self._spare is None:
            self._spare = self._fork()
            _rehearse()

    def forget_spare(self) -> None:
        """Let the spare shim go: the environment of runs has changed."""
        if self._spare is not None:
            self._spare.discard()
            self._spare = None

    def _fork(self) -> Spare:
        return Spare(self._state_dir / "runs" / f".next-{next(self._spares)}")

    def _fork_ready(self) -> Spare:
        spare = self._fork()
        spare.wait()
        return spare

    def summaries(self, first: int) -> Tuple[List[protocol.RunSummary], bool]:
        """Runs from the one at this place on, oldest first, and whether there are more."""
        runs = self._runs.part(first, first + _LISTED_RUNS + 1)
        return [run.summary() for run in runs[:_LISTED_RUNS]], len(runs) > _LISTED_RUNS

    def add(self, request: protocol.StartRun, workdir: Path, *, ready: bool) -> Run:
        """Record a run and start it if ``ready``. A run that exists is left as it is.

        Raises:
            ValueError: for a name that no run can have, or a value that no process can.
            TypeError: for fields of a wrong type.
            OSError: the disk takes no more.
        """
        known = self._runs.get(request.run_id)
        if known is not None:
            return known
        folder = paths.run_dir(self._state_dir, request.run_id)
        for word in (request.workdir, *request.env, *request.env.values()):
            if "\0" in word:
                raise ValueError("a zero byte in a name or a value")
        shell = request.kind != protocol.PYTHON
        stdin = self._stdin_of(request) if shell and request.stdin else None
        spec = RunSpec(
            request.run_id,
            str(folder),
            str(workdir / request.workdir),
            request.env,
            request.errexit,
            script=request.payload.startswith(b"#!"),
            stdin=stdin is not None,
        )
        if not (ready and shell and self._prepared(request.payload, folder)):
            reserve.with_reserve(self._state_dir, lambda: _write_cell(folder, request.payload))
        if stdin is not None:
            stdin.rename(folder / paths.STDIN_FILE)
        first_line = request.payload.strip().split(b"\n", 1)[0].decode("utf-8", "replace")
        run = Run(spec, first_line[:_COMMAND_CHARS], started_at=time.time(), notebook=str(request.notebook))
        if not shell:
            run.cell = PythonCell(request.workdir and spec.workdir, request.uv, request.allow_stdin)
        self._runs.add(run)
        if ready:
            self._launch(run)
        return run

    def _stdin_of(self, request: protocol.StartRun) -> Path:
        """The blob that the run is to read. Raises ``ValueError`` or ``OSError`` where there is none."""
        blob = self._state_dir / paths.BLOBS / request.stdin
        if not paths.plain_name(request.stdin) or not stat.S_ISREG(blob.lstat().st_mode):
            raise ValueError(f"{request.stdin!r} is no blob")
        return blob

    def start_waiting(self) -> None:
        """Start every run that waited."""
        for run in self.active:
            if run.state == WAITING:
                self._launch(run)

    def send_signal(self, run: Run, number: int) -> None:
        """Send a signal to all processes of ``run``; one that has not started ends before it began."""
        if run.control is not None:
            with contextlib.suppress(OSError):  # it is ending
                run.control.send(bytes([number]))
        elif run.state == WAITING:
            run.signal, run.exit_code = number, 128 + number
            self._over(run)
        elif run.cell is not None and run.state in (LAUNCHED, RUNNING):
            self._kernel.send_signal(run.run_id, number)

    def end(self, reason: str) -> None:
        """SIGTERM to every shell run that goes on, as the session ends for ``reason``; Python's are the kernel's."""
        for run in self.active:
            run.reason = reason
            if run.cell is None or run.state == WAITING:
                self.send_signal(run, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to every shell run that goes on; the kernel has bounds of its own."""
        for run in self.active:
            if run.cell is None:
                self.send_signal(run, signal.SIGKILL)

    def started(self, run_id: str) -> None:
        """The kernel has a Python run's cell."""
        run = self._runs.going_on(run_id)
        if run is not None:
            run.state = RUNNING
            self._changed(run)

    def ended(self, run_id: str, end: Optional[protocol.ExecuteEnded], detail: str) -> None:
        """A Python run is over; ``detail`` says why where the kernel's relay could not, or was told to end it."""
        run = self._runs.going_on(run_id)
        if run is None:
            return
        if end is None:
            run.reason, run.exit_code, run.duration_s = detail, EXIT_NO_KERNEL, time.time() - run.started_at
        else:
            run.take_end(end)
            if detail:
                _end_with_kernel(run, detail)
        self._over(run)

    def _launch(self, run: Run) -> None:
        run.started_at = time.time()
        if run.cell is not None:
            run.state = LAUNCHED
            cell, spec = run.cell, run.spec
            request = protocol.ExecuteRun(run.run_id, spec.folder, cell.workdir, spec.env, cell.allow_stdin)
            run.behind = self._kernel.execute(request, cell.uv)
            return
        try:
            run.control = self._hand_over(run.spec)
        except OSError as error:  # no process or no memory is left
            line = f"skyrl_magic: the run cannot be started: {error.strerror}\n"
            (run.folder / protocol.STDERR).write_text(line, encoding="utf-8")
            run.exit_code = EXIT_NO_BASH
            self._over(run)
            return
        run.state = LAUNCHED
        self._selector.register(run.control, selectors.EVENT_READ, lambda _: self._heard(run))

    def _prepared(self, cell: bytes, folder: Path) -> bool:
        """Whether the spare shim's folder has become the run's, with the cell in it."""
        spare = self._living_spare()
        if spare is None:
            return False
        try:
            cell_file = spare.folder / paths.CELL_FILE
            reserve.with_reserve(self._state_dir, lambda: cell_file.write_bytes(cell))
            spare.become(folder)
        except OSError:
            spare.discard()
            self._spare = None
        return self._spare is not None

    def _living_spare(self) -> Optional[Spare]:
        if self._spare is not None:
            try:
                self._spare.wait()
            except OSError:  # the disk was full, or it was killed: by a cell's `kill -9 -1`, say
                self._spare.discard()
                self._spare = None
        return self._spare

    def _hand_over(self, spec: RunSpec) -> socket.socket:
        spare = self._living_spare()
        self._spare = None
        self.spare_used_at = time.monotonic()
        if spare is None:
            spare = reserve.with_reserve(self._state_dir, self._fork_ready)
        folder = Path(spec.folder)
        if spare.folder != folder:
            for name in (paths.CELL_FILE, paths.STDIN_FILE)[: 1 + spec.stdin]:
                (folder / name).rename(spare.folder / name)
            spare.become(folder)
        spare.control.sendall(spec.to_bytes())
        spare.control.setblocking(False)
        return spare.control

    def _heard(self, run: Run) -> None:
        """News from a shim: its run was started, or is over, or the shim itself is gone."""
        assert run.control is not None  # noqa: S101  (it is registered)
        try:
            words = run.control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            words = b""
        run.heard += words
        if run.state == LAUNCHED and run.heard.startswith(SHIM_STARTED):
            run.state = RUNNING
            self._changed(run)
        end = _read_end(run.heard)
        if end is not None or not words:
            self._selector.unregister(run.control)
            if end is None:
                run.exit_code, run.signal = 128 + _LOST_SIGNAL, int(_LOST_SIGNAL)
                run.duration_s = time.time() - run.started_at
            else:
                run.take_end(end)
            self._over(run)

    def _over(self, run: Run) -> None:
        run.state = ENDED
        self._runs.end(run)
        self._changed(run)
        with contextlib.suppress(OSError):
            (run.folder / paths.NOTIFY_SOCKET).unlink()
        if run.control is not None:
            run.control.close()
            run.control = None
        run.shrink()


def _end_with_kernel(run: Run, detail: str) -> None:
    """A Python run was over when its kernel had been told to end; one that ended well all the same has ended well."""
    if not run.exit_code:
        run.reason = ""
    elif run.reason:  # the session ends too
        run.signal = run.signal or signal.SIGTERM
        run.exit_code = 128 + run.signal
    else:
        run.reason, run.signal, run.exit_code = detail, 0, EXIT_NO_KERNEL


def _rehearse() -> None:
    """Touch what the next start and end will touch: after a fork the first write to a page copies it, which takes 5 µs.

    They are about 180 pages, and the cell would wait for them.
    """
    run = Run(RunSpec("", "", "", {}, errexit=False), "", RUNNING)
    heard = (protocol.StartRun(payload=b"."), protocol.WatchRun())
    told = (protocol.Done(), run.event() or protocol.RunStarted(), protocol.RunEnded())
    frames = b"".join(map(protocol.encode, (*heard, *told)))
    for _ in protocol.FrameDecoder().feed(frames):
        run.spec.to_bytes()


def _write_cell(folder: Path, payload: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / paths.CELL_FILE).write_bytes(payload)


def _read_end(heard: bytes) -> Optional[End]:
    """The run's end in what its shim has said; None where it has not, or not wholly."""
    _, ended, data = heard.partition(SHIM_ENDED)
    try:
        return End.from_bytes(data) if ended else None
    except (TypeError, ValueError):
        return None


def kill_everything() -> None:
    """End every process below this one: runs that would not go, what they left behind, Ray."""
    procs.kill_tree(os.getpid())
