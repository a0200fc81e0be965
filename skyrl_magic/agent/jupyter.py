"""One ipykernel as the relay sees it: its process and its channels. Runs in the kernel's interpreter."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional

import zmq
from jupyter_client.connect import write_connection_file
from jupyter_client.session import Session

from skyrl_magic.agent import procs

#: How often a kernel that was not there yet is looked for, in milliseconds (its socket's file makes no event).
_RECONNECT_MS = 20
#: After so much silence nothing more comes from a kernel that has ended, in milliseconds.
_LAST_MS = 100
_CHANNELS = ("shell", "control", "stdin")

Message = Dict[str, Any]


class Kernel:
    """An ipykernel and its channels.

    Args:
        folder: for its sockets; private to the user, so that no message needs a signature.
        paths, packages: see :func:`kernel_main.run_kernel`.
        selector: wakes the relay when something came; :meth:`messages` then has it.
    """

    def __init__(self, folder: Path, paths: List[str], packages: List[str], selector: selectors.BaseSelector) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        connection_file = folder / "kernel.json"
        _, known = write_connection_file(str(connection_file), transport="ipc", ip=str(folder / "k"), key=b"")
        info: Mapping[str, Any] = {**known}
        archive = sys.argv[0]
        command = [sys.executable, archive, "kernel", "--connection-file", str(connection_file)]
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--paths", json.dumps(paths), "--packages", json.dumps(packages)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._log = folder / "log"
        self._selector = selector
        self._session = Session(key=b"")
        self._context = zmq.Context()
        self._context.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        self._context.setsockopt(zmq.LINGER, 0)
        self._context.setsockopt(zmq.RCVHWM, 0)
        self._sockets: Dict[str, zmq.Socket[bytes]] = {n: self._context.socket(zmq.DEALER) for n in _CHANNELS}
        self._sockets["iopub"] = self._context.socket(zmq.SUB)
        self._sockets["iopub"].setsockopt(zmq.SUBSCRIBE, b"")
        for name, socket in self._sockets.items():
            # input_request finds its way by the identity that sent the execute_request.
            if name in _CHANNELS:
                socket.setsockopt(zmq.IDENTITY, self._session.bsession)
            socket.connect(f"ipc://{info['ip']}-{info[f'{name}_port']}")
            selector.register(_descriptor(socket), selectors.EVENT_READ, lambda _: None)
        self.pid = self._process.pid

    def send(self, channel: str, msg_type: str, content: Message, **more: Any) -> str:
        """Send a message and return its id. ``more``: ``metadata``, ``buffers``, ``parent``."""
        message: Message = self._session.send(self._sockets[channel], msg_type, content, **more) or {}
        return str(message["header"]["msg_id"])

    def messages(self) -> Iterator[Message]:
        """Everything that has come, in order for each channel; the message has its channel's name as ``channel``."""
        # Output first: when the reply is taken, what the cell has shown by then is there.
        for name in ("iopub", "stdin", "shell", "control"):
            while True:
                try:
                    parts = self._sockets[name].recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                _, rest = self._session.feed_identities(parts)
                message: Message = self._session.deserialize(rest) or {}
                message["channel"] = name
                yield message

    def last_messages(self) -> Iterator[Message]:
        """When the process has ended: what it had sent and is still on its way, until nothing more comes."""
        while self._sockets["iopub"].poll(_LAST_MS):
            yield from self.messages()

    def interrupt(self, since_boot_s: float) -> None:
        """SIGINT to the kernel and its process group, as Jupyter's own does, and to what a cell has detached.

        Args:
            since_boot_s: when the cell began, by CLOCK_BOOTTIME: what earlier ones started goes on.
        """
        detached = procs.started_since(os.getpid(), since_boot_s)
        self._signal(signal.SIGINT)
        for pid in detached:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getpgid(pid) != self.pid:
                    os.kill(pid, signal.SIGINT)

    def nudge(self) -> None:
        """Wake the kernel's main thread where it sleeps, and do nothing else (``kernel_main`` has the handler)."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End the kernel and everything below it; :meth:`poll` has its end."""
        procs.kill_tree(self.pid)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def poll(self) -> Optional[int]:
        """The kernel's exit status as of ``subprocess``, or None while it lives."""
        return self._process.poll()

    def last_words(self) -> str:
        """The last line that the kernel's process wrote by itself, for an error message."""
        with contextlib.suppress(OSError):
            lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ""

    def close(self) -> None:
        """Leave the channels; the process must have ended."""
        for socket in self._sockets.values():
            self._selector.unregister(_descriptor(socket))
            socket.close()
        self._context.term()


def _descriptor(socket: zmq.Socket[bytes]) -> int:
    """A descriptor that becomes readable when something may have come; all of it must be taken then."""
    found = socket.getsockopt(zmq.FD)
    if not isinstance(found, int):
        raise TypeError("a socket without a descriptor")
    return found


def describe_end(status: int) -> str:
    """Why a kernel's process ended, for people: ``SIGSEGV``, ``exit code 3``."""
    if status >= 0:
        return f"it exited with code {status}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-status).name
        return f"{name}, out of memory?" if name == "SIGKILL" else name
    return f"signal {-status}"
