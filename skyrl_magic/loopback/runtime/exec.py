"""A command run in a living sandbox: its process, its streams by offset, its end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import os
import signal
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

from skyrl_magic.loopback.runtime import children, host, programs
from skyrl_magic.loopback.runtime.host import EnterCommand
from skyrl_magic.loopback.runtime.input import StdinWriter
from skyrl_magic.loopback.runtime.output import PipeReader, output_pipe

#: Goes to the directory that is the first word and becomes the command that is the others, in a child: this shell stays
#: outside of the sandbox's process namespace (``host.enter_command``). It waits, and says nothing of a signal itself.
EXEC_SCRIPT = 'exec 3>&2 2>/dev/null; (exec 2>&3 3>&-; cd -- "$1" && shift && exec "$@"); exit $?'
#: After a command's end, output that was delivered can be read again for this long, in seconds.
REPLAY_AFTER_EXIT_S = 60.0


@dataclasses.dataclass(frozen=True)
class Terminal:
    """The pseudo-terminal that a command asked for."""

    rows: int
    columns: int
    env: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class ExecRequest:
    """What to run."""

    arguments: Sequence[str]
    env: Mapping[str, str]
    workdir: str
    stdout: bool = True
    """Whether stdout can be read; else it goes nowhere."""
    stderr: bool = True
    merge_stderr: bool = False
    timeout_s: float | None = None
    terminal: Terminal | None = None


class ExecProcess:
    """A started command. It runs on whether or not somebody reads, and ends with its sandbox."""

    def __init__(self, request: ExecRequest, child_pid: int) -> None:
        """Start it in the sandbox whose first process is ``child_pid``.

        Raises:
            OSError: The sandbox is gone, or a pipe cannot be made.
        """
        self.stdout: PipeReader | None = None
        self.stderr: PipeReader | None = None
        command = _command(request, child_pid)
        if request.terminal is not None:
            self._process = self._start_in_terminal(request, request.terminal, command, child_pid)
        else:
            self._process = self._start_with_pipes(request, command)
        self.exit = children.watch(self._process)
        """Return code; negative for the signal that ended it."""
        loop = asyncio.get_running_loop()
        timer = None if request.timeout_s is None else loop.call_later(request.timeout_s, self.kill)
        self.exit.add_done_callback(lambda _: self._on_exit(timer))

    def _start_with_pipes(self, request: ExecRequest, command: EnterCommand) -> subprocess.Popen[bytes]:
        with contextlib.ExitStack() as theirs:
            stdin_read, stdin_write = os.pipe()
            theirs.callback(os.close, stdin_read)
            stdout = stderr = subprocess.DEVNULL
            if request.stdout:
                read_end, stdout = output_pipe()
                theirs.callback(os.close, stdout)
                self.stdout = PipeReader(read_end)
            if request.merge_stderr:
                stderr = subprocess.STDOUT
            elif request.stderr:
                read_end, stderr = output_pipe()
                theirs.callback(os.close, stderr)
                self.stderr = PipeReader(read_end)
            self.stdin = StdinWriter(stdin_write)
            return subprocess.Popen(
                command.words,
                executable=command.program,
                stdin=stdin_read,
                stdout=stdout,
                stderr=stderr,
                env=dict(request.env),
                start_new_session=True,
                cwd="/",
            )

    def _start_in_terminal(
        self, request: ExecRequest, terminal: Terminal, command: EnterCommand, child_pid: int
    ) -> subprocess.Popen[bytes]:
        main, side = _open_terminal(child_pid, terminal)
        self.stdout = PipeReader(main)
        self.stdin = StdinWriter(os.dup(main), terminal=True)
        try:
            return subprocess.Popen(
                [programs.find("setsid") or "setsid", "--ctty", command.program, *command.words[1:]],
                stdin=side,
                stdout=side,
                stderr=side,
                env={**request.env, **terminal.env},
                cwd="/",
            )
        finally:
            os.close(side)

    def close(self) -> None:
        """Forget the output of a command that has ended."""
        for reader in (self.stdout, self.stderr):
            if reader is not None:
                reader.close()

    def kill(self) -> None:
        """End the command and the processes of its group."""
        if not self.exit.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _on_exit(self, timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()
        self.stdin.close()
        asyncio.get_running_loop().call_later(REPLAY_AFTER_EXIT_S, self._forget)

    def _forget(self) -> None:
        for reader in (self.stdout, self.stderr):
            if reader is not None:
                reader.buffer.forget()


def _command(request: ExecRequest, child_pid: int) -> EnterCommand:
    # Our own helpers must not be loaded with the command's libraries.
    loader = [f"{name}={value}" for name, value in request.env.items() if name.startswith("LD_")]
    words = ["/usr/bin/env", *loader, *request.arguments] if loader else list(request.arguments)
    enter = host.enter_command(child_pid)
    inside = ["/bin/sh", "-c", EXEC_SCRIPT, "sh", request.workdir, *words]
    return dataclasses.replace(enter, words=[*enter.words, *inside])


def _open_terminal(child_pid: int, terminal: Terminal) -> tuple[int, int]:
    """Both sides of a terminal of the sandbox's own, so that its name is known there too."""
    devices = Path("/proc", str(child_pid), "root/dev")
    main = os.open(devices / "ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        # TIOCSPTLCK and TIOCGPTN of <asm-generic/ioctls.h>: unlock the other side and ask for its number.
        fcntl.ioctl(main, 0x40045431, struct.pack("i", 0))
        (number,) = struct.unpack("i", fcntl.ioctl(main, 0x80045430, struct.pack("i", 0)))
        side = os.open(devices / "pts" / str(number), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        os.close(main)
        raise
    fcntl.ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", terminal.rows, terminal.columns, 0, 0))
    return main, side
