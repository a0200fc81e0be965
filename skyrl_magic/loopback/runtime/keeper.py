"""The keeper: one small process for each sandbox, which outlives the server.

It starts the container and its network, keeps its deadline, writes down what its main process prints, commits its
volumes, and leaves ``exit.json`` when it is over. Its stdin is a socket to the server, over which the spec comes first;
a restarted server finds another one in the sandbox's folder. The server sends ``{"op": …}`` lines (``terminate``,
``reload``, ``commit``, ``end_stdin``) and receives replies, and the state as a line whenever that changes. Standard
library only, and only what is needed: it must start fast.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from skyrl_magic.loopback.runtime import replies
from skyrl_magic.loopback.runtime.cgroup import Group
from skyrl_magic.loopback.runtime.container import Container, ContainerError, explain
from skyrl_magic.loopback.runtime.mainlog import MainLog
from skyrl_magic.loopback.runtime.peers import Peer, Peers
from skyrl_magic.loopback.runtime.spec import (
    COMMIT,
    GO_NAME,
    NETWORK_NAME,
    READY,
    REQUESTS_NAME,
    Folder,
    KeeperSpec,
)
from skyrl_magic.loopback.runtime.volumework import Job, VolumeWork

#: Between SIGTERM and SIGKILL, in seconds. All of a sandbox's processes are dead within 1 s of terminate.
GRACE_S = 0.5
#: How long the container's root may take to be ready, in seconds.
READY_TIMEOUT_S = 60.0

EXITED = "exited"
TERMINATED = "terminated"
PREEMPTED = "preempted"
TIMEOUT = "timeout"
FAILED = "failed"


class Keeper:
    """Keeps one sandbox until it is over."""

    def __init__(self, folder: Folder, spec: KeeperSpec, server: socket.socket) -> None:
        self._folder = folder
        self._spec = spec
        self._selector = selectors.DefaultSelector()
        self._peers = Peers(self._selector, folder.socket)
        self._peers.add(server)
        self._log = MainLog(self._selector, folder, self._publish)
        self._volumes = VolumeWork(folder, spec)
        self._group = Group(folder.path.name, spec.memory_bytes)
        self._container: Container | None = None
        self._started = False
        self._network = spec.no_network
        self._reason = ""
        self._exit: dict[str, Any] | None = None
        now_s = time.monotonic()
        self._deadline_s = now_s + spec.timeout_s
        self._ready_by_s = now_s + READY_TIMEOUT_S
        self._kill_at_s: float | None = None
        self._requests = self._go = -1

    # --- life -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Start the sandbox and stay until it is over."""
        signal.set_wakeup_fd(self._volumes.wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: self._stop(TERMINATED))
        self._requests = _open_fifo(self._folder.control / REQUESTS_NAME)
        self._go = _open_fifo(self._folder.control / GO_NAME)
        replies.free_slots(self._folder.control)
        self._selector.register(self._requests, selectors.EVENT_READ, self._on_request)
        self._selector.register(self._volumes.wake, selectors.EVENT_READ, self._on_results)
        try:
            self._start()
        except (ContainerError, OSError) as error:
            self._finish(1, FAILED, str(error))
            return
        self._volumes.start()
        while self._exit is None:
            for key, _ in self._selector.select(self._wait_s()):
                if isinstance(key.data, Peer):
                    for message in self._peers.receive(key.data):
                        self._on_message(key.data, message)
                else:
                    key.data()
            self._keep_deadlines()
            self._peers.flush(self._state)

    def _start(self) -> None:
        log = os.open(self._folder.keeper_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if self._group.problem:
            os.write(log, f"{self._group.problem}\n".encode("utf-8", "replace"))
        options, command = self._spec.options, self._spec.command
        container = self._container = Container(options, command, self._folder.stdin, log, self._group)
        container.write_pids(self._folder.pids)
        self._log.drain({"stdout": container.stdout, "stderr": container.stderr})
        self._selector.register(container.exited, selectors.EVENT_READ, self._on_exit)

    def _begin(self) -> None:
        """The container's root is ready: give it its network, and let the command begin."""
        if self._spec.network and self._container is not None:
            self._network = self._container.connect()
        (self._folder.control / NETWORK_NAME).write_text(self._network, encoding="utf-8")
        self._started = True
        os.write(self._go, b"go\n")
        self._publish()

    def _wait_s(self) -> float:
        at_s = self._kill_at_s if self._kill_at_s is not None else self._deadline_s
        if not self._started:
            at_s = min(at_s, self._ready_by_s)
        return max(0.0, at_s - time.monotonic())

    def _keep_deadlines(self) -> None:
        now_s = time.monotonic()
        if self._kill_at_s is None:
            if now_s >= self._deadline_s:
                self._stop(TIMEOUT)
            elif not self._started and now_s >= self._ready_by_s:
                self._stop(FAILED)
        elif now_s >= self._kill_at_s and self._container is not None:
            self._kill_at_s = now_s + GRACE_S
            self._container.kill(signal.SIGKILL)

    def _stop(self, reason: str) -> None:
        if self._reason or self._container is None:
            return
        self._reason = reason
        self._container.kill(signal.SIGTERM if self._container.handles_sigterm() else signal.SIGKILL)
        self._kill_at_s = time.monotonic() + GRACE_S

    def _on_exit(self) -> None:
        """Bubblewrap is gone, of itself or killed: nothing of its container may outlive it."""
        if self._container is None:
            return
        self._selector.unregister(self._container.exited)
        self._container.kill(signal.SIGKILL)
        self._selector.register(self._container.gone, selectors.EVENT_READ, self._on_gone)

    def _on_gone(self) -> None:
        """Every process is dead: commit for the last time and say how it ended."""
        if self._container is None:
            return
        self._selector.unregister(self._container.gone)
        self._log.finish()
        code = self._container.finish()
        error = "" if self._started else self._setup_error()
        reason = self._reason or (EXITED if self._started else FAILED)
        self._finish(code, reason, error, *self._volumes.finish())

    def _setup_error(self) -> str:
        lines = self._folder.log("stderr").read_text("utf-8", "replace").splitlines()
        return explain(lines[-1]) if lines else f"the container was not ready within {READY_TIMEOUT_S:.0f} s"

    def _finish(self, returncode: int, reason: str, error: str = "", *commit: str) -> None:
        from skyrl_magic.loopback.runtime.mounted import leave_end, remove_living

        self._exit = {
            "returncode": returncode,
            "reason": reason,
            "error": error,
            "commit_error": commit[0] if commit else "",
            "left_out": commit[1] if commit else "",
            "ended_at": time.time(),
        }
        leave_end(self._folder, self._exit, self._volumes.commit_again)
        self._publish()
        remove_living(self._folder, keep_volumes=bool(self._exit["commit_error"] or self._exit["left_out"]))
        self._peers.close(self._state)
        self._group.remove()

    # --- what comes in ----------------------------------------------------------------------------------------------

    def _on_request(self) -> None:
        """A process of the sandbox asks for something; what is no request is passed over."""
        with contextlib.suppress(BlockingIOError):
            for line in os.read(self._requests, 65536).split(b"\n"):
                if line == READY.encode() and not self._started:
                    self._begin()
                elif (request := replies.parse(line)) is not None:
                    name, paths = request
                    self._volumes.put(Job(self._folder.control / name, self._volumes.holding(paths), inside=True))

    def _on_message(self, peer: Peer, message: dict[str, Any]) -> None:
        """The server asks for something."""
        operation = message.get("op")
        receiver = (peer, message.get("id"))
        if operation == "terminate":
            self._stop(PREEMPTED if message.get("preempted") else TERMINATED)
        elif operation == "end_stdin" and self._container is not None:
            self._container.end_stdin()
        elif operation == "reload" and self._container is not None:
            self._volumes.put(Job(receiver, reload_for=self._container.child_pid))
        elif operation == COMMIT:
            self._volumes.put(Job(receiver, self._volumes.all))

    def _on_results(self) -> None:
        for receiver, error in self._volumes.results():
            if isinstance(receiver, Path):
                replies.answer(receiver, error)
            else:
                peer, number = receiver
                peer.send({"reply": number, "error": error})

    def _publish(self) -> None:
        self._peers.publish(self._state)

    def _state(self) -> dict[str, Any]:
        return {
            "child_pid": self._container.child_pid if self._container is not None else 0,
            "started": self._started,
            "network": self._network,
            "sizes": self._log.sizes,
            "open": sorted(self._log.open),
            "exit": self._exit,
        }


def _open_fifo(path: Path) -> int:
    os.mkfifo(path, 0o600)
    # For both ways, so that it neither waits for the other side nor reports an end.
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def main() -> None:
    """Read the spec from the server and keep the sandbox in the folder that is the first argument."""
    folder = Folder(Path(sys.argv[1]))
    server = socket.socket(fileno=0)
    with server.makefile("rb") as lines:
        spec = KeeperSpec.from_json(json.loads(lines.readline()))
    Keeper(folder, spec, server).run()


if __name__ == "__main__":
    main()
