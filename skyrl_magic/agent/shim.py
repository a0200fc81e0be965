"""The process beside each run: reader of its two pipes, subreaper of its process tree, writer of its journal.

The supervisor forks it, without a new Python, and ahead of time: a cell must not wait for a fork. It outlives every
client. Its run ends when bash has exited **and** both pipes are at their end, as for any pipeline: a child in the
background that still holds them keeps the run alive (as ``%%bash`` would wait for it), one that redirected its output
and detached does not, and lives on under the supervisor. A run that somebody stops (SIGINT, SIGTERM or SIGKILL) ends
only when no process of its tree is left: what has detached, or does not hear SIGINT, is there for the next signal.

Between supervisor and shim lies a socket. Down it come the run (its length as u32, then JSON) and after that signals,
one byte each; up it go :data:`STARTED` and in the end :data:`ENDED` with the run's :class:`End` behind it: a file of it
would need a disk that is not full.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import mmap
import os
import selectors
import signal
import socket
import struct
import time
from pathlib import Path
from typing import Dict, NamedTuple, Optional, Tuple

from skyrl_magic.agent import paths, procs, reserve
from skyrl_magic.agent.journal import JournalWriter
from skyrl_magic.agent.notify import Notifier
from skyrl_magic.agent.wire import Callback, dispatch, wakeup_pair

STARTED = b"S"
ENDED = b"E"

LENGTH = struct.Struct(">I")
_PIPE_BYTES = 1 << 20
#: ``fcntl.F_SETPIPE_SZ``, which Python 3.9 does not name (linux/fcntl.h).
_F_SETPIPE_SZ = 1031
#: How often a tree that is being killed is walked again, in seconds.
_KILL_AGAIN_S = 0.05
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
EXIT_NO_WORKDIR = 2
EXIT_NO_BASH = 127


class RunSpec(NamedTuple):
    """What a shim needs to know of its run."""

    run_id: str
    folder: str
    workdir: str
    env: Dict[str, str]
    """Added to the supervisor's own environment."""
    errexit: bool
    script: bool = False
    """The cell's first line names its interpreter (``#!``)."""
    stdin: bool = False
    """It reads the file of that name in its folder; otherwise its stdin is empty."""

    def to_bytes(self) -> bytes:
        """As it travels to the shim."""
        data = json.dumps(self._asdict()).encode()
        return LENGTH.pack(len(data)) + data


@dataclasses.dataclass(frozen=True)
class End:
    """How a run ended."""

    exit_code: int
    signal: int
    duration_s: float
    journal_error: str
    """What of its output could not be kept, and why; empty where all was."""

    def to_bytes(self) -> bytes:
        """As it travels to the supervisor."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> End:
        """What :meth:`to_bytes` wrote. Raises ``ValueError`` or ``TypeError`` where the shim was killed meanwhile."""
        return cls(**json.loads(data))


class Shim:
    """One run, from its start to its end.

    Everything that needs no run is done before there is one: bash and its first output must not wait for it.

    Args:
        control: to the supervisor.
        folder: where the run's files are made; it is renamed when it becomes a run's.
    """

    def __init__(self, control: socket.socket, folder: Path) -> None:
        self._control = control
        self._journal = JournalWriter(folder, make_room=lambda: reserve.release(folder.parent.parent))
        (folder / paths.CELL_FILE).touch()
        self._selector = selectors.DefaultSelector()
        self._notifier = Notifier(folder, self._selector)
        self._buffer = memoryview(mmap.mmap(-1, _PIPE_BYTES))  # no page of it is there before it is needed
        self._pipes = (_pipe(), _pipe())
        self._open_pipes = 0
        self._bash = 0
        self._wait_status: Optional[int] = None
        self._stopped = False
        self._killing = False
        self._wakeup, self._signal_end = wakeup_pair()
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._signal_end.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._reap)
        for number, (read_end, _) in enumerate(self._pipes):
            self._selector.register(read_end, selectors.EVENT_READ, self._drainer(number, read_end))

    def run(self, spec: RunSpec) -> None:
        """Start bash, drain it to its end and tell of it."""
        began = time.monotonic()
        refusal = self._start(spec)
        self._tell(STARTED)
        if refusal:
            self._journal.write(1, memoryview(refusal))
        self._control.setblocking(False)
        self._selector.register(self._control, selectors.EVENT_READ, self._take_signals)
        while not self._over():
            dispatch(self._selector, _KILL_AGAIN_S if self._killing else None)
            if self._killing:
                procs.kill_tree(os.getpid())
        self._journal.close()
        self._tell(ENDED + self._end(time.monotonic() - began).to_bytes())
        # This process's own end takes a while and a core: not before the supervisor has done what the cell waits for.
        self._control.setblocking(True)
        with contextlib.suppress(OSError):
            while self._control.recv(64):
                pass

    def _tell(self, word: bytes) -> None:
        with contextlib.suppress(OSError):  # the supervisor is gone
            self._control.send(word)

    def _over(self) -> bool:
        if self._wait_status is None or self._open_pipes:
            return False
        return not (self._stopped and procs.descendants(os.getpid()))

    def _start(self, spec: RunSpec) -> bytes:
        """Start bash and listen to its pipes; a line for the run's stderr where it cannot be started."""
        refusal = b""
        try:
            self._bash = self._spawn(spec)
        except OSError as error:
            line, code = _refusal(spec, error)
            refusal, self._wait_status = line.encode("utf-8", "backslashreplace"), code << 8
        for _, write_end in self._pipes:
            os.close(write_end)
        self._open_pipes = len(self._pipes)
        return refusal

    def _spawn(self, spec: RunSpec) -> int:
        env, bash = environment_of(spec)
        os.chdir(spec.workdir)  # this process's own: it has no other use for one
        cell = str(Path(spec.folder, paths.CELL_FILE))
        if spec.script:
            os.chmod(cell, 0o700)  # noqa: PTH101  (one call less is imported and made)
            program, words = cell, [cell]
        elif bash is None:
            raise FileNotFoundError(2, "there is no bash on PATH")
        else:
            program, words = bash, ["bash", "-e", cell] if spec.errexit else ["bash", cell]
        stdin = str(Path(spec.folder, paths.STDIN_FILE)) if spec.stdin else os.devnull
        (_, out), (_, err) = self._pipes
        pid = os.posix_spawn(
            program,
            words,
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, stdin, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, out, 1),
                (os.POSIX_SPAWN_DUP2, err, 2),
            ],
            setsid=True,  # so that `kill 0` in a cell reaches the cell and not its shim
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores both, and bash would inherit that
        )
        if spec.stdin:
            os.unlink(stdin)  # noqa: PTH108  (it is open there; its bytes go with the run)
        return pid

    def _drainer(self, number: int, fd: int) -> Callback:
        def drain(_: int) -> None:
            try:
                count = os.readv(fd, [self._buffer])
            except BlockingIOError:
                return
            if count:
                self._journal.write(number, self._buffer[:count])
                self._notifier.grown()
                return
            self._selector.unregister(fd)
            os.close(fd)
            self._open_pipes -= 1

        return drain

    def _take_signals(self, _: int) -> None:
        try:
            numbers = self._control.recv(64)
        except BlockingIOError:
            return
        if not numbers:  # the supervisor is gone: nobody could stop this run any more
            self._selector.unregister(self._control)
            numbers = bytes([signal.SIGKILL])
        for number in numbers:
            if number == signal.SIGKILL:
                procs.kill_tree(os.getpid())
            else:
                procs.signal_tree(os.getpid(), number)
            self._stopped |= number in _STOPS
            self._killing |= number == signal.SIGKILL

    def _reap(self, _: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(4096)
        for pid, status in procs.reap():
            if pid == self._bash:
                self._wait_status = status

    def _end(self, duration_s: float) -> End:
        status = self._wait_status or 0
        return End(
            exit_code=procs.exit_code(status),
            signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            duration_s=duration_s,
            journal_error=self._journal.lost_line,
        )


def environment_of(spec: RunSpec) -> Tuple[Dict[str, str], Optional[str]]:
    """The run's environment, and the bash that it finds there."""
    env = {**os.environ, **spec.env}
    return env, procs.which("bash", env.get("PATH", os.defpath))


def _refusal(spec: RunSpec, error: OSError) -> Tuple[str, int]:
    """Why the run could not be started, and the exit code that a shell would take."""
    if not Path(spec.workdir).is_dir():
        why = "is no folder" if Path(spec.workdir).exists() else "does not exist"
        return f"skyrl_magic: the working directory {spec.workdir} {why}\n", EXIT_NO_WORKDIR
    if spec.script:
        return _no_interpreter(spec, error), EXIT_NO_BASH
    return f"skyrl_magic: bash cannot be started: {error.strerror}\n", EXIT_NO_BASH


def _no_interpreter(spec: RunSpec, error: OSError) -> str:
    with Path(spec.folder, paths.CELL_FILE).open("rb") as file:
        line = file.readline(256).decode("utf-8", "replace")
    program = (line[2:].split() or [""])[0]
    if not program:
        return "skyrl_magic: the cell's first line, #!, names no interpreter: write one, as in #!/usr/bin/env python3\n"
    if not Path(program).exists():
        advice = f"#!/usr/bin/env {Path(program).name} looks for it on PATH"
        return f"skyrl_magic: there is no {program} in the container, which the cell's first line names: {advice}\n"
    return f"skyrl_magic: {program}, which the cell's first line names, cannot run it: {error.strerror}\n"


def _pipe() -> Tuple[int, int]:
    read_end, write_end = os.pipe()
    with contextlib.suppress(OSError):  # a smaller pipe is slower, not wrong
        fcntl.fcntl(write_end, _F_SETPIPE_SZ, _PIPE_BYTES)
    os.set_blocking(read_end, False)
    return read_end, write_end
