"""The supervisor's side of the session's Python kernel: one relay at a time, started when a cell needs it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import selectors
import signal
import socket
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional, Protocol, Tuple

from skyrl_magic.agent import kernel_start, procs
from skyrl_magic.agent.ray_start import ray_address
from skyrl_magic.agent.wire import Channel
from skyrl_magic.core import protocol

#: How long a cell gets from KeyboardInterrupt to its end when its kernel is restarted, and how long the kernel gets
#: after that to shut down (``atexit``, threads, ``__del__``), in seconds. Then it is killed.
GRACE_S = 5.0
EXIT_S = 5.0
#: So long after that the relay, which keeps both, is killed too.
RELAY_S = 2.0
#: No kernel, one that is starting, one that runs.
OFF, STARTING, READY = "off", "starting", "ready"
#: Where the relay's sockets and logs lie, below the agent's state; short, as a socket's path has at most 107 bytes.
FOLDER = "py"
RELAY_LOG = "relay.log"


class Asker(Protocol):
    """A client of the supervisor."""

    number: int

    def push(self, message: protocol.Message) -> None:
        """Send it a frame."""


class RunEvents(Protocol):
    """Who hears of the runs that a kernel executes."""

    def started(self, run_id: str) -> None:
        """The kernel has the cell."""

    def ended(self, run_id: str, end: Optional[protocol.ExecuteEnded], detail: str) -> None:
        """The run is over; ``detail`` says why where its relay could not (``end`` is None then) or was told to end."""


class KernelHost:
    """The session's Python kernel.

    Args:
        selector: of the supervisor.
        state_dir: of the agent.
        checkout: the checkout's root.
        workdir: where the kernel starts, known after the boot.
        clients: everybody who is attached.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        state_dir: Path,
        checkout: Path,
        workdir: Callable[[], Path],
        clients: Callable[[], List[Asker]],
    ) -> None:
        self._selector = selector
        self._folder = state_dir / FOLDER
        self._checkout = checkout
        self._workdir = workdir
        self._clients = clients
        self.events: Optional[RunEvents] = None
        self.state = OFF
        self.uv = ""
        self.busy = False
        """It does something that is no run's: a widget's callback."""
        self._pid = 0
        self._control: Optional[socket.socket] = None
        self._channel: Optional[Channel] = None
        self._runs: List[str] = []
        self._detail = ""
        self._failed = False
        self._lost = ""
        self._has_ray_address = False
        self._requests = itertools.count(1)
        self._askers: Dict[int, Tuple[Asker, int]] = {}
        self._generation = 0
        self._when_ready: List[Tuple[Asker, int]] = []
        self._ending = ""
        """Why the kernel, which has been asked to end, ends; empty where it has not."""
        self._held: Dict[str, Tuple[protocol.ExecuteRun, str]] = {}
        """Runs for the kernel after that one, and its ``uv``."""
        self._starts: List[Callable[[], None]] = []
        """Who asked for that one."""
        self._last = False
        """There will be none."""
        self.kill_at: Optional[float] = None
        """When :meth:`tick` has something to do, by the monotonic clock."""

    @property
    def pid(self) -> int:
        """The root of the kernel's processes; 0 without a kernel."""
        return self._pid

    def conflict(self, uv: str) -> str:
        """A line where the kernel that runs is another one than a cell with ``uv`` asks for; without, any will do."""
        if self.state == OFF or uv in ("", self.uv):
            return ""
        there = f"--uv {self.uv!r}" if self.uv else "the cluster's Python"
        return f"the Python kernel runs in {there}: leave --uv out, or %skyrl_restart with it (its variables go)"

    def execute(self, request: protocol.ExecuteRun, uv: str) -> str:
        """Execute a run's cell; a kernel is started where there is none. Returns the run whose cell it executes now."""
        if self._ending:
            self._held[request.run_id] = (request, uv)
            return ""
        self._ensure(uv or self.uv)
        ahead = self._runs[0] if self._runs else ""
        self._runs.append(request.run_id)
        if self._lost:
            note = f"this is a new Python kernel, without variables: the one before had ended ({self._lost})"
            request, self._lost = dataclasses.replace(request, note=note), ""
        if not self._has_ray_address:  # it came up where Ray had not started; it may have since, by %skyrl_restart
            request = dataclasses.replace(request, env={**ray_address(), **request.env})
        self._send(request)
        return ahead

    def send_signal(self, run_id: str, number: int) -> None:
        """SIGINT interrupts the run's cell; every other signal ends the kernel."""
        if self._held.pop(run_id, None) is not None and self.events is not None:
            self.events.ended(run_id, protocol.ExecuteEnded(run_id, 128 + number, number), "")
            return
        self._send(protocol.SignalRun(0, run_id, number))

    def ask(self, client: Asker, request: protocol.KernelRequest) -> None:
        """Hand a client's request to the kernel."""
        if self.state == OFF:
            client.push(protocol.Failed(request.request, "no_kernel", "the session has no Python kernel yet"))
            return
        number = next(self._requests)
        self._askers[number] = (client, request.request)
        self._send(dataclasses.replace(request, request=number))

    def forward(self, client: Asker, message: protocol.Message) -> None:
        """Hand a comm's message, or the answer to ``input()``, to the kernel; without one it is dropped."""
        if isinstance(message, protocol.KernelMessage):
            message = dataclasses.replace(message, client=client.number)
        self._send(message)

    def start(self, client: Asker, request: int, uv: str) -> None:
        """Start a kernel where there is none, and answer when it is up; none is started while the session ends."""
        if self._last:
            client.push(protocol.Failed(request, protocol.STOPPING, "the session is about to end"))
            return
        if self._ending:
            self._starts.append(lambda: self.start(client, request, uv))
            return
        self._ensure(uv)
        if self.state == READY:
            client.push(protocol.Done(request))
        else:
            self._when_ready.append((client, request))

    def restart(self, client: Asker, request: protocol.RestartKernel) -> None:
        """End the kernel, with what it executes, and start another one; or keep one that is there."""
        conflict = self.conflict(request.uv) if request.keep else ""
        if conflict:
            client.push(protocol.Failed(request.request, "kernel_conflict", conflict))
            return
        if not request.keep:
            self.end("the Python kernel was restarted with %skyrl_restart", GRACE_S, EXIT_S)
        self.start(client, request.request, request.uv)

    def end(self, reason: str, grace_s: float, exit_s: float) -> None:
        """Ask the kernel to end in an orderly way; :attr:`state` is ``off`` when it has.

        Args:
            reason: what its runs end with.
            grace_s: how long its cell gets from KeyboardInterrupt to its end, in seconds.
            exit_s: how long the kernel gets after that, for ``atexit`` and the like.
        """
        if self.state != READY or self._failed:
            self._kill(reason)  # nobody has a variable there yet
        elif not self._ending:
            self._ending = reason
            self.kill_at = time.monotonic() + grace_s + exit_s + RELAY_S
            self._send(protocol.EndKernel(reason, grace_s, exit_s))

    def finish(self, reason: str, grace_s: float, exit_s: float) -> None:
        """:meth:`end` the kernel, and let none follow."""
        self._last = True
        self.end(reason, grace_s, exit_s)

    def tick(self) -> None:
        """Kill a kernel whose relay does not keep its bounds."""
        if self.kill_at is not None and time.monotonic() >= self.kill_at:
            self._kill(self._ending)

    def _kill(self, detail: str) -> None:
        self._detail = detail
        if self._pid:
            procs.kill_tree(self._pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        self._gone()

    def reaped(self, pid: int) -> bool:
        """Whether process ``pid`` was the relay. What it had sent is still taken, and then its socket is at its end."""
        if not pid or pid != self._pid:
            return False
        self._pid = 0
        return True

    def _ensure(self, uv: str) -> None:
        if self._failed:  # it has told of all its runs: the next one is not for it
            self._gone()
        if self.state != OFF:
            return
        python = kernel_start.interpreter()
        self.uv, self.state, self._detail = uv, STARTING, ""
        self._generation += 1
        folder = self._folder / str(self._generation)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        self._has_ray_address = bool(ray_address())
        workdir = self._workdir()
        paths = kernel_start.package_paths(self._checkout, workdir)
        arguments = kernel_start.to_arguments(theirs.fileno(), folder, paths)
        command = kernel_start.relay_command(python or "python3", uv, arguments)
        try:
            self._pid = kernel_start.fork_relay(command, workdir, theirs, folder / RELAY_LOG)
        finally:
            theirs.close()
        self._control = ours
        self._channel = Channel(self._selector, ours.fileno(), ours.fileno(), self._take, lambda _: self._gone())

    def _send(self, message: protocol.Message) -> None:
        if self._channel is not None:
            self._channel.send(message)

    def _take(self, message: protocol.Message) -> None:
        if isinstance(message, (protocol.ExecuteStarted, protocol.ExecuteEnded, protocol.KernelBusy)):
            self._heard_of_work(message)
        elif isinstance(message, protocol.KernelReply):
            client, number = self._askers.pop(message.request, (None, 0))
            if client is not None:
                client.push(dataclasses.replace(message, request=number))
        elif isinstance(message, protocol.KernelMessage):
            for client in self._clients():
                if message.client in (0, client.number):
                    client.push(message)
        elif isinstance(message, protocol.RelayReady):
            self.state = READY
            for client, number in self._when_ready:
                client.push(protocol.Done(number))
            self._when_ready.clear()
        elif isinstance(message, protocol.RelayFailed):
            self._detail, self._failed = message.detail, True

    def _heard_of_work(self, message: protocol.Message) -> None:
        if isinstance(message, protocol.KernelBusy):
            self.busy = message.busy
        elif isinstance(message, protocol.ExecuteStarted) and self.events is not None:
            self.events.started(message.run_id)
        elif isinstance(message, protocol.ExecuteEnded):
            self._ended(message.run_id, message, self._ending)

    def _ended(self, run_id: str, end: Optional[protocol.ExecuteEnded], detail: str) -> None:
        if run_id in self._runs:
            self._runs.remove(run_id)
            if self.events is not None:
                self.events.ended(run_id, end, detail)

    def _gone(self) -> None:
        """The relay has left: nobody else will tell what it had to do."""
        channel, self._channel = self._channel, None
        control, self._control = self._control, None
        if control is None:
            return
        self._failed = self.busy = False
        ending, self._ending, self.kill_at = self._ending, "", None
        if channel is not None:
            channel.close()
        control.close()
        detail = ending or self._detail or "the Python kernel's relay ended"
        if self.state == STARTING and not self._detail:
            words = kernel_start.last_words(self._folder / str(self._generation) / RELAY_LOG)
            detail = f"{'uv run' if self.uv else 'the Python kernel'} could not start: {words}" if words else detail
        if ending:
            self.uv = ""  # the user knows
        elif self.state == READY:
            self._lost = detail
        else:
            self.uv = ""  # it was of no use
        self.state = OFF
        for run_id in list(self._runs):
            self._ended(run_id, None, detail)
        waiting = [*self._when_ready, *self._askers.values()]
        self._when_ready.clear()
        self._askers.clear()
        for client, number in waiting:
            client.push(protocol.Failed(number, "kernel_gone", detail))
        self._begin_next(detail)

    def _begin_next(self, detail: str) -> None:
        """Start the kernel that was asked for while this one ended, and hand it what waits."""
        starts, self._starts = self._starts, []
        held, self._held = self._held, {}
        for start in starts:
            start()
        for request, uv in held.values():
            if not self._last:
                self.execute(request, uv)
            elif self.events is not None:
                self.events.ended(request.run_id, None, detail)
