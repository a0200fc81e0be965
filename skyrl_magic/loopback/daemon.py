"""Find the server of a state directory or start it, from any number of processes at once.

Standard library and platformdirs only, so that a client that needs the server starts fast. ``server.lock`` is held by
the live server for its whole life: who can take it knows that there is none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skyrl_magic.loopback.documents import read_json
from skyrl_magic.loopback.layout import Layout, default_root

HOST = "127.0.0.1"
#: After how long without a request and without a sandbox the server ends itself, in seconds.
IDLE_EXIT_S = 600.0
#: The signal that ends the server with all its sandboxes; SIGTERM ends only the server, and its sandboxes go on.
END_EVERYTHING = signal.SIGUSR1
#: What a started server writes to its stdout.
READY = b"ready\n"
_POLL_S = 0.02
_LOCK_PATIENCE_S = 5.0
_ANSWER_TIMEOUT_S = 10.0


class LoopbackError(Exception):
    """The server cannot be started or reached; ``str()`` says why and what to do."""


@dataclasses.dataclass(frozen=True)
class ServerAddress:
    """Where the server listens and what it wants to see."""

    url: str
    token_id: str
    token_secret: str = dataclasses.field(repr=False)
    pid: int
    state_dir: Path

    def environment(self) -> dict[str, str]:
        """The variables that point any Modal client at this server."""
        return {
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": self.token_id,
            "MODAL_TOKEN_SECRET": self.token_secret,
        }


def find_server(state_dir: Path | None = None) -> ServerAddress | None:
    """The live server of ``state_dir`` (default: this user's), or None."""
    layout = Layout(state_dir or default_root())
    if _is_free(layout):
        return None
    document = read_json(layout.server_file)
    if document is None or not _answers(document["blob_port"]):
        return None
    return _address(layout, document)


def ensure_server(
    state_dir: Path | None = None, timeout_s: float = 30, idle_exit_s: float = IDLE_EXIT_S
) -> ServerAddress:
    """The live server of ``state_dir`` (default: this user's), started if there is none.

    Args:
        state_dir: The server's files; the environment variable ``SKYRL_MAGIC_LOOPBACK_DIR`` sets the default.
        timeout_s: How long it may take to start.
        idle_exit_s: When a server that is started here ends itself.

    Raises:
        LoopbackError: It did not start in time; the message has the end of its log.
    """
    layout = Layout((state_dir or default_root()).absolute())
    layout.create()
    deadline = time.monotonic() + timeout_s
    with _starting(layout, deadline):
        address = find_server(layout.root)
        if address is None and _start(layout, idle_exit_s, deadline):
            address = find_server(layout.root)
    if address is None:
        raise LoopbackError(f"the local server did not start; the end of {layout.log_file} says:\n{_log_tail(layout)}")
    return address


def stop_server(state_dir: Path | None = None, timeout_s: float = 30) -> bool:
    """End the server of ``state_dir`` with all its sandboxes. Return whether there was anything to end.

    Raises:
        LoopbackError: It did not end in time.
    """
    layout = Layout((state_dir or default_root()).absolute())
    address = find_server(layout.root)
    if address is None:
        if not _has_sandboxes(layout):
            return False
        # Sandboxes outlive a server that died; only a server can end them.
        address = ensure_server(layout.root, timeout_s)
    with contextlib.suppress(ProcessLookupError):
        os.kill(address.pid, END_EVERYTHING)
    deadline = time.monotonic() + timeout_s
    while not _is_free(layout):
        if time.monotonic() > deadline:
            raise LoopbackError(f"the local server (pid {address.pid}) did not end within {timeout_s:.0f} s")
        time.sleep(_POLL_S)
    return True


def _has_sandboxes(layout: Layout) -> bool:
    return any(not (folder / "exit.json").exists() for folder in layout.sandboxes.glob("sb-*"))


def hold_lock(layout: Layout) -> int:
    """Take the lock that marks the live server, for the rest of this process's life; return its descriptor.

    Raises:
        LoopbackError: Another server has it.
    """
    descriptor = os.open(layout.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # Whoever looks for a server holds the lock for an instant (_is_free), so one refusal says nothing.
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while not _try_lock(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            os.close(descriptor)
            raise LoopbackError(f"a local server already runs on {layout.root}")
        time.sleep(_POLL_S)
    return descriptor


def _try_lock(descriptor: int, kind: int) -> bool:
    # A POSIX lock, not flock: it is never inherited by a process that the server forked.
    try:
        fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_free(layout: Layout) -> bool:
    try:
        descriptor = os.open(layout.lock_file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        # Shared, so that two who look at once do not take each other for a server.
        return _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _answers(blob_port: int) -> bool:
    # That the kernel accepts the connection says little: a process that is being killed still holds its socket.
    try:
        with socket.create_connection((HOST, blob_port), timeout=_ANSWER_TIMEOUT_S) as connection:
            connection.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            return connection.recv(5) == b"HTTP/"
    except OSError:
        return False


def _address(layout: Layout, document: dict[str, Any]) -> ServerAddress:
    url = f"http://{HOST}:{document['port']}"
    return ServerAddress(url, document["token_id"], document["token_secret"], document["pid"], layout.root)


@contextlib.contextmanager
def _starting(layout: Layout, deadline: float) -> Iterator[None]:
    """One at a time may look for the server and start it."""
    descriptor = os.open(layout.root / "starting.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LoopbackError("another process has been starting the local server for too long") from None
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _start(layout: Layout, idle_exit_s: float, deadline: float) -> bool:
    """Start a server that is nobody's child; return whether it is ready before the deadline."""
    command = [sys.executable, "-m", "skyrl_magic.loopback", "--serve"]
    command += ["--state-dir", str(layout.root), "--idle-exit-s", str(idle_exit_s)]
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
    with os.fdopen(os.open(layout.log_file, flags, 0o600), "wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd="/", start_new_session=True
        )
    # The process that we started ends at once; the server, its child, holds the other end of this pipe until it is
    # ready or dead.
    with process:
        pipe = process.stdout
        if pipe is None:  # pragma: no cover - it was asked for
            return False
        poll = select.poll()  # select takes no descriptor from 1024 on, and a notebook may have many
        poll.register(pipe, select.POLLIN)
        readable = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not readable:
            # A server that comes too late finds the pipe closed, and ends.
            process.kill()
        return bool(readable) and os.read(pipe.fileno(), len(READY)) == READY


def _log_tail(layout: Layout, lines: int = 15) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(layout.log_file.read_text("utf-8", errors="replace").splitlines()[-lines:])
    return ""
