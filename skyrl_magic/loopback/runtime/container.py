"""The processes of one sandbox: bubblewrap with the container's first process, and its network. For the keeper."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from skyrl_magic.loopback.runtime import processes, programs
from skyrl_magic.loopback.runtime.cgroup import Group

#: How long the helpers may take to come up, in seconds.
START_TIMEOUT_S = 20.0


class ContainerError(Exception):
    """The container could not be started; ``str()`` says why."""


class _Maps:
    """The users and groups of root's user namespace: all that there are, under their own numbers.

    bubblewrap maps one user alone, so it waits until they are written here.
    """

    def __init__(self) -> None:
        block_read, self._go = os.pipe()
        info = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)  # it insists on one
        self.theirs = (block_read, info)
        self.options = ("--userns-block-fd", str(block_read), "--info-fd", str(info))

    def write(self, pid: int) -> None:
        """Write them for the process, and let bubblewrap go on."""
        try:
            for name in ("uid_map", "gid_map"):
                rows = [line.split() for line in Path("/proc/self", name).read_text("ascii").splitlines()]
                text = "".join(f"{first} {first} {count}\n" for first, _, count in rows)
                Path("/proc", str(pid), name).write_text(text, "ascii")
            os.write(self._go, b"go")
        finally:
            os.close(self._go)


class Container:
    """A started container. Its script says when its root is ready, and waits for ``go``: see ``rootfs``."""

    def __init__(self, options: Sequence[str], command: Sequence[str], stdin: Path, log: int, group: Group) -> None:
        """Start bubblewrap.

        Args:
            options: bubblewrap's. They hold secrets, so they travel in a file without a name.
            command: What it runs.
            stdin: A named pipe that is made here; whoever opens it writes to the command.
            log: Descriptor for what bubblewrap's helpers print.
            group: To which its processes are to belong.

        Raises:
            ContainerError: bubblewrap failed.
            OSError: It is not there.
        """
        self._log = log
        self._slirp: subprocess.Popen[bytes] | None = None
        self._slirp_exit = -1
        status_read, status_write = os.pipe()
        # Anybody but root maps his own number alone, which bubblewrap does itself.
        maps = _Maps() if os.geteuid() == 0 else None
        self.stdout, stdout_write = os.pipe()
        self.stderr, stderr_write = os.pipe()
        stdin_read = self._open_stdin(stdin)
        arguments = os.memfd_create("arguments", 0)
        os.write(arguments, b"".join(os.fsencode(word) + b"\0" for word in options))
        os.lseek(arguments, 0, os.SEEK_SET)
        descriptors = (status_write, arguments, *(maps.theirs if maps else ()))
        self._bwrap = subprocess.Popen(
            [
                programs.find("bwrap") or "bwrap",
                *("--json-status-fd", str(status_write), *(maps.options if maps else ())),
                *("--args", str(arguments)),
                *("--", *command),
            ],
            stdin=stdin_read,
            stdout=stdout_write,
            stderr=stderr_write,
            pass_fds=descriptors,
        )
        for descriptor in (*descriptors, stdin_read, stdout_write, stderr_write):
            os.close(descriptor)
        self.exited = os.pidfd_open(self._bwrap.pid)
        """Readable when bubblewrap is gone; its container is too, unless somebody killed bubblewrap."""
        # It stays open: bubblewrap writes the exit code to it, and would die of a closed pipe.
        self._status = os.fdopen(status_read, "rb", buffering=0)
        line = self._status.readline()
        if not line:
            raise ContainerError(explain(self._last_words()))
        self.child_pid = int(json.loads(line)["child-pid"])
        # At once, while the pid is surely that process's.
        try:
            self.gone = os.pidfd_open(self.child_pid)
            """Readable when every process of the container is gone."""
        except ProcessLookupError:  # over already, and bubblewrap with it
            self.gone = os.dup(self.exited)
        group.add(self.child_pid)  # before it goes on: where there is a group there are maps
        if maps is not None:
            self._write_maps(maps)

    def _write_maps(self, maps: _Maps) -> None:
        try:
            maps.write(self.child_pid)
        except OSError as error:
            self.kill(signal.SIGKILL)
            self._bwrap.kill()
            raise ContainerError(explain(f"bwrap: setting up uid map: {error.strerror}")) from None

    def _open_stdin(self, path: Path) -> int:
        os.mkfifo(path, 0o600)
        read_end = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(read_end, True)
        # Held until somebody ends it, so that a writer who goes away does not.
        self._stdin = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        return read_end

    def end_stdin(self) -> None:
        """Let the command read the end of its stdin, once all others who write to it have closed it."""
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1

    def _last_words(self) -> str:
        self._bwrap.wait()
        text = os.read(self.stderr, 65536).decode("utf-8", "replace").strip()
        return text.splitlines()[-1] if text else f"bwrap: exit code {self._bwrap.returncode}"

    def connect(self) -> str:
        """Give the container a network; return why it has none, or an empty string.

        Not before the container's script has begun: bubblewrap fails if the loopback device is up already.
        """
        ready_read, ready_write = os.pipe()
        exit_read, self._slirp_exit = os.pipe()
        self._slirp = subprocess.Popen(
            [
                programs.find("slirp4netns") or "slirp4netns",
                *("--configure", "--disable-host-loopback"),
                *("--ready-fd", str(ready_write), "--exit-fd", str(exit_read), str(self.child_pid), "tap0"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(ready_write, exit_read),
        )
        os.close(ready_write)
        os.close(exit_read)
        readable, _, _ = select.select([ready_read], [], [], START_TIMEOUT_S)
        ready = bool(readable) and os.read(ready_read, 1) == b"1"
        os.close(ready_read)
        if ready:
            return ""
        self._disconnect()
        return "slirp4netns failed (see keeper.log)"

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to the container's first process; the kernel ends all others with it."""
        with contextlib.suppress(ProcessLookupError):
            if self.gone >= 0:
                signal.pidfd_send_signal(self.gone, number)

    def handles_sigterm(self) -> bool:
        """Whether SIGTERM would do anything: a namespace's first process ignores what it does not handle."""
        return processes.handles(self.child_pid, signal.SIGTERM)

    def finish(self) -> int:
        """Reap what is dead, end the network, and return the command's exit code (128 + n for signal n)."""
        code = self._bwrap.wait()
        os.close(self.exited)
        os.close(self.gone)
        self.gone = -1
        self.end_stdin()
        self._status.close()
        self._disconnect()
        return 128 - code if code < 0 else code

    def _disconnect(self) -> None:
        if self._slirp is not None:
            os.close(self._slirp_exit)
            try:
                self._slirp.wait(5)
            except subprocess.TimeoutExpired:
                self._slirp.kill()
                self._slirp.wait()
            self._slirp = None

    def write_pids(self, path: Path) -> None:
        """Note on disk whom to end if this process dies."""
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            rows = {"child": [self.child_pid, processes.start_ticks(self.child_pid)]}
            path.write_text(json.dumps(rows), encoding="ascii")


def explain(words: str) -> str:
    """The last line of bubblewrap, and what to do where that is known."""
    if "uid map" in words or "namespace" in words:
        other = "use --backend modal" if os.geteuid() == 0 else "start the notebook as root"
        advice = f"this machine does not allow its users namespaces: allow them, or {other}"
        return f"{words} ({advice})"
    return words
