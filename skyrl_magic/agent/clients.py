"""The supervisor's side of one ``attach``: requests in, answers and the watched runs' events out."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import selectors
import signal
import socket
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Set, Type

from skyrl_magic.agent.commits import failure_text
from skyrl_magic.agent.run import ENDED, LAUNCHED, Run
from skyrl_magic.agent.wire import Channel
from skyrl_magic.core import protocol

if TYPE_CHECKING:
    from skyrl_magic.agent.supervisor import Supervisor

#: An ``attach`` that leaves so much untaken is stuck and dropped, in bytes; its client opens another one.
_MAX_QUEUED_BYTES = 16 * 1024 * 1024
#: What counts as use of the session, besides the end of a run.
_USES = (
    protocol.StartRun,
    protocol.ApplyCheckout,
    protocol.Configure,
    protocol.ReadJournal,
    protocol.SignalRun,
    protocol.EndRun,
    protocol.InputReply,
    protocol.KernelMessage,
    protocol.RestartKernel,
    protocol.RestartRay,
)
_numbers = itertools.count(1)


class Client:
    """One connection of an ``attach``."""

    def __init__(self, supervisor: Supervisor, selector: selectors.BaseSelector, connection: socket.socket) -> None:
        self._supervisor = supervisor
        self._socket = connection
        self._watched: Set[str] = set()
        self.number = next(_numbers)
        self._starts: Dict[str, int] = {}  # requests whose run's shim has not told yet that it goes
        self.greeted = False
        self._handlers: Dict[Type[protocol.Message], Callable[[Any], None]] = {
            protocol.Hello: self._hello,
            protocol.StartRun: self._start_run,
            protocol.WatchRun: self._watch,
            protocol.UnwatchRun: lambda message: self._watched.discard(message.run_id),
            protocol.SignalRun: self._signal,
            protocol.EndRun: self._end_run,
            protocol.Seen: self._seen,
            protocol.ListRuns: self._list,
            protocol.Configure: self._configure,
            protocol.CommitVolume: self._commit,
            protocol.RestartRay: self._restart_ray,
            protocol.GetStatus: lambda message: self.push(supervisor.status(message.request)),
            protocol.StopSession: self._stop,
            protocol.KernelRequest: lambda message: supervisor.kernel.ask(self, message),
            protocol.KernelMessage: lambda message: supervisor.kernel.forward(self, message),
            protocol.InputReply: lambda message: supervisor.kernel.forward(self, message),
            protocol.RestartKernel: lambda message: supervisor.kernel.restart(self, message),
        }
        self._channel = Channel(selector, connection.fileno(), connection.fileno(), self._handle, self._closed)

    def push(self, message: protocol.Message) -> None:
        """Send a frame; an ``attach`` that takes nothing any more is dropped."""
        self._channel.send(message)
        if self._channel.queued_bytes > _MAX_QUEUED_BYTES:
            self._channel.close()

    def run_changed(self, run: Run) -> None:
        """Tell of a run that this client has started or watches."""
        request = self._starts.pop(run.run_id, None)
        if request is not None:
            self.push(protocol.Done(request))
        if run.run_id in self._watched:
            if run.state == ENDED:
                self._watched.discard(run.run_id)
            self._tell(run)

    def finish(self) -> None:
        """Nothing more will be sent: ``attach`` passes on what it has and leaves."""
        self._channel.finish(self._end_of_stream)

    def _end_of_stream(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def _closed(self, _: Optional[Exception]) -> None:
        self._socket.close()
        self._supervisor.gone(self)

    def _handle(self, message: protocol.Message) -> None:
        handler = self._handlers.get(type(message))
        if isinstance(message, _USES):
            self._supervisor.asked()
        if handler is None:
            return
        try:
            handler(message)
        except (TypeError, ValueError, OSError, AttributeError, OverflowError) as error:
            # Fields of a wrong type, a name that cannot be, a full disk: the request fails and the session goes on.
            code, text = "bad_request", f"{type(message).__name__}: {error}"
            if isinstance(error, OSError):
                code, text = "io_error", f"{type(message).__name__}: {error.strerror or error}"
                if error.errno == errno.ENOSPC:
                    text = "the disk of the session's container is full: %skyrl_stop ends the session and frees it"
            self.push(protocol.Failed(getattr(message, "request", 0), code, text))

    def _hello(self, _: protocol.Hello) -> None:
        self.greeted = True
        supervisor = self._supervisor
        self.push(
            protocol.Welcome(
                protocol.VERSION,
                supervisor.agent_hash,
                supervisor.config.session,
                str(supervisor.workdir),
                supervisor.config.spec,
            )
        )
        for about, text in supervisor.standing.items():
            self.push(protocol.Notice(about, text))
        for warned in supervisor.limits.standing(time.monotonic()):
            self.push(protocol.Notice(warned.about, warned.text))
        if supervisor.ray.problem:
            self.push(protocol.Notice(supervisor.ray.about, supervisor.ray.problem))
        committer = supervisor.committer
        if committer.standing:
            self.push(protocol.Notice(committer.about, failure_text(committer.standing)))

    def _start_run(self, request: protocol.StartRun) -> None:
        supervisor = self._supervisor
        if supervisor.stopping:
            self.push(protocol.Failed(request.request, protocol.STOPPING, "the session is about to end"))
            return
        conflict = supervisor.kernel.conflict(request.uv) if request.kind == protocol.PYTHON else ""
        if conflict:
            self.push(protocol.Failed(request.request, "kernel_conflict", conflict))
            return
        going_on = len(supervisor.runs.active)
        if 0 < request.max_runs <= going_on and supervisor.runs.get(request.run_id) is None:
            count = "1 run goes" if going_on == 1 else f"{going_on} runs go"
            text = f"{count} on in this session already: %skyrl_cancel ends one, and "
            text += f"%config SkyRLMagic.max_runs allows more than {request.max_runs}"
            self.push(protocol.Failed(request.request, "busy", text))
            return
        run = supervisor.runs.add(request, supervisor.workdir, ready=supervisor.ray.settled)
        if run.state == LAUNCHED and run.cell is None:
            self._starts[run.run_id] = request.request  # one message with the news that it goes, not two
        else:
            self.push(protocol.Done(request.request))

    def _watch(self, request: protocol.WatchRun) -> None:
        run = self._supervisor.runs.get(request.run_id)
        if run is None:
            self.push(protocol.Failed(0, "unknown_run", f"this session has no run {request.run_id}"))
            return
        if run.state != ENDED:
            self._watched.add(request.run_id)
        self._tell(run)

    def _tell(self, run: Run) -> None:
        event = run.event()
        if event is not None:
            self.push(event)

    def _signal(self, request: protocol.SignalRun) -> None:
        run = self._supervisor.runs.get(request.run_id)
        if run is None:
            self.push(protocol.Failed(request.request, "unknown_run", f"this session has no run {request.run_id}"))
            return
        number = signal.Signals(request.signal)
        if run.state != ENDED:
            run.cancelled = number.name
        self._supervisor.runs.send_signal(run, number)
        self.push(protocol.Done(request.request))

    def _end_run(self, request: protocol.EndRun) -> None:
        run = self._supervisor.runs.get(request.run_id)
        if run is None:
            self.push(protocol.Failed(request.request, "unknown_run", f"this session has no run {request.run_id}"))
            return
        self._supervisor.endings.begin(run, float(request.grace_s))
        self.push(protocol.Done(request.request))

    def _seen(self, request: protocol.Seen) -> None:
        run = self._supervisor.runs.get(request.run_id)
        if run is not None:
            run.see(str(request.notebook), (int(request.stdout), int(request.stderr), int(request.outputs)))

    def _list(self, request: protocol.ListRuns) -> None:
        runs, more = self._supervisor.runs.summaries(int(request.first))
        self.push(protocol.RunList(request.request, [dataclasses.asdict(run) for run in runs], more))

    def _configure(self, request: protocol.Configure) -> None:
        """Take over all that a request says, or nothing of it."""
        idle, limits = self._supervisor.idle, self._supervisor.limits
        idle_s = idle.timeout_s if request.idle_timeout_s is None else float(request.idle_timeout_s)
        if not idle_s > 0:
            raise ValueError(f"an idle timeout of {idle_s:g}s cannot be")
        max_usd, price = (None if v is None else float(v) for v in (request.max_usd, request.usd_per_hour))
        timeout_s = limits.timeout_s
        if request.timeout_s is not None:
            try:
                limits.set_timeout(float(request.timeout_s), time.monotonic())
            except ValueError as error:
                self.push(protocol.Failed(request.request, "timeout", str(error)))
                return
        try:
            limits.set_budget(max_usd, time.monotonic(), price)
        except ValueError as error:
            limits.timeout_s = timeout_s
            self.push(protocol.Failed(request.request, "budget", str(error)))
            return
        idle.timeout_s = idle_s
        self.push(protocol.Done(request.request))

    def _commit(self, request: protocol.CommitVolume) -> None:
        def answer(error: str) -> None:
            failed = protocol.Failed(request.request, "commit", error)
            self.push(failed if error else protocol.Done(request.request))

        self._supervisor.committer.request(answer)

    def _restart_ray(self, request: protocol.RestartRay) -> None:
        supervisor = self._supervisor
        if supervisor.config.ray:
            self.push(protocol.Done(request.request))
            supervisor.restart_ray()
        else:
            text = (
                f"session {supervisor.config.session} was started with --no-ray: its kernels and runs look for no Ray"
            )
            self.push(protocol.Failed(request.request, "no_ray", text))

    def _stop(self, request: protocol.StopSession) -> None:
        self.push(protocol.Done(request.request))
        self._supervisor.stop(f"%skyrl_stop by {request.by} ended it" if request.by else "%skyrl_stop ended it")
