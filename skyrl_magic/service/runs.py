"""Runs: a cell's command in a session, followed until it ends, and stopped for good when the user stops it."""

from __future__ import annotations

import dataclasses
import queue
import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import CheckoutError, RunLeft, RunStopped
from skyrl_magic.core.spec import RunRequest
from skyrl_magic.service.channel import Channel
from skyrl_magic.service.connection import Refused
from skyrl_magic.service.interrupts import Interrupts
from skyrl_magic.service.python_cell import PythonCell, PythonEnd
from skyrl_magic.service.session import Session
from skyrl_magic.service.stop import (
    ESCALATION,
    PYTHON_ESCALATION,
    SIGNAL_TIMEOUT_S,
    Stop,
    end_for_good,
    end_run,
    send_signal,
)
from skyrl_magic.service.sync import STALE, CheckoutSync
from skyrl_magic.service.watch import Leave, Lost, Pressed, Signalled, Trouble, Watch, payload_bytes

#: How often a start is tried when another notebook changes the checkout at the same time.
_TRIES = 5
_BROKEN = "the connection to the session broke; reconnecting"
_BACK = "the connection to the session is back"
_ID_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"


class Sink(Protocol):
    """Where a run's events go: the cell's display."""

    @property
    def settled(self) -> bool:
        """Whether all that was fed has been seen by the user."""
        ...

    @property
    def flush_due_s(self) -> float | None:
        """Seconds until :meth:`tick` should be called, or None."""
        ...

    def feed(self, event: protocol.Message) -> None:
        """Take an Output, a Gap, or a Notice, which only who shows what he takes should take from the session."""
        ...

    def tick(self) -> None:
        """Show what is due."""
        ...

    def note(self, text: str) -> None:
        """Show one line about the run."""
        ...

    def message(self, message: protocol.KernelMessage) -> None:
        """Show a message of a Python cell, in its place among the text."""
        ...

    def ask(self, prompt: str, *, password: bool) -> str:
        """Ask the user what the cell asks. Raises KeyboardInterrupt when the user stops it."""
        ...


@dataclass
class RunResult:
    """How a run ended."""

    run_id: str
    exit_code: int
    duration_s: float
    commit_error: str = ""
    captured: dict[str, bytearray] = field(default_factory=dict)
    stopped: str = ""
    """The signal that the user's stop took, or empty."""
    pressed_late: bool = False
    """Stop was pressed when the run had ended already."""
    python: PythonEnd | None = None
    """How a Python cell ended; None for a shell cell."""
    reason: str = ""
    """Why the session ended the run; empty where the session did not."""
    journal_error: str = ""
    """What of the output could not be kept, and why."""


def new_run_id() -> str:
    """Six letters and digits that are not mistaken for one another."""
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(6))


class RunService:
    """Starts a cell's run in a session and follows it.

    Args:
        clock: monotonic, in seconds.
        signal_timeout_s: see :data:`SIGNAL_TIMEOUT_S`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, signal_timeout_s: float = SIGNAL_TIMEOUT_S) -> None:
        self._clock = clock
        self._signal_timeout_s = signal_timeout_s

    def start(
        self, session: Session, request: RunRequest, run_id: str, sink: Sink, interrupts: Interrupts | None = None
    ) -> Watch:
        """Bring the checkout up to date and start the run; :meth:`follow` comes next, with the same ``interrupts``.

        Raises:
            SessionLost: the container has ended, and nothing ran. CheckoutError, SessionError: it was not started.
            RunStopped: interrupted meanwhile; a run that began all the same is killed.
        """
        watch = session.channel.add_watch(_watch_request(run_id, request))
        start = protocol.StartRun(
            run_id=run_id,
            workdir=request.workdir,
            env=dict(request.env),
            errexit=request.errexit,
            kind=request.kind,
            uv=request.uv,
            allow_stdin=request.allow_stdin,
            max_runs=request.rules.max_runs,
            payload=request.cell.encode("utf-8", "surrogateescape"),
        )
        try:
            session.channel.patiently(lambda: self._try_start(session, start, watch, sink))
            if interrupts is not None:
                interrupts.divert(lambda: watch.events.put(Pressed()))
        except BaseException as error:
            session.channel.unwatch(watch)
            if isinstance(error, KeyboardInterrupt):
                # A Python kernel's other variables are worth more than a cell that has just begun.
                end_run(session, run_id, signal.SIGINT if request.kind == protocol.PYTHON else signal.SIGKILL)
                raise RunStopped("stopped before the run began") from None
            raise
        return watch

    def attach(self, session: Session, request: RunRequest, run_id: str, interrupts: Interrupts) -> Watch:
        """Go on with a run that was started before, at its bytes ``request.start``; :meth:`follow` comes next.

        Raises:
            SessionError: the session cannot be asked.
        """
        watch = session.channel.begin_watch(_watch_request(run_id, request))
        interrupts.divert(lambda: watch.events.put(Pressed()))
        return watch

    def follow(
        self, session: Session, request: RunRequest, watch: Watch, sink: Sink, interrupts: Interrupts | None = None
    ) -> RunResult:
        """Feed ``sink`` until the run has ended.

        Stop, which ``interrupts`` tells of, ends the run: SIGINT, SIGTERM and SIGKILL to its process tree, with
        ``request.rules.grace_s`` or another press between them.

        Raises:
            SessionLost: the container ended meanwhile. RunStopped: the run does not end even when it is killed.
            RunLeft: the user stopped watching, or the notebook's kernel ends; the run goes on.
        """
        interrupts = interrupts or Interrupts()
        takers = _Takers(session, request, watch.run_id, sink, interrupts)
        try:
            ended, stopped = self._follow(session, request, watch, takers, interrupts)
        except RunLeft:
            watch.seen = takers.seen()
            session.channel.leave(watch)
            raise
        except BaseException:
            session.channel.unwatch(watch)
            raise
        session.channel.unwatch(watch)
        return RunResult(
            watch.run_id,
            ended.exit_code,
            ended.duration_s,
            ended.commit_error,
            takers.captured,
            stopped,
            pressed_late=interrupts.take() > 0,
            python=None if takers.python is None else takers.python.end,
            reason=ended.reason,
            journal_error=ended.journal_error,
        )

    def await_end(self, session: Session, run_id: str, timeout_s: float) -> bool:
        """Wait for the end of a run that nobody here follows; False where it goes on. Raises SessionError."""
        nothing = protocol.NONE
        watch = session.channel.begin_watch(protocol.WatchRun(run_id, 0, 0, nothing, nothing, outputs=nothing))
        deadline_s = self._clock() + timeout_s
        try:
            while True:
                event = watch.events.get(timeout=max(0.0, deadline_s - self._clock()))
                if isinstance(event, Lost):
                    raise event.error
                if isinstance(event, protocol.RunEnded):
                    return True
        except queue.Empty:
            return False
        finally:
            session.channel.unwatch(watch)

    def _try_start(self, session: Session, start: protocol.StartRun, watch: Watch, sink: Sink) -> None:
        sync = session.sync
        for _ in range(_TRIES):
            if sync is not None:
                start = dataclasses.replace(start, generation=self._synchronise(session.channel, sync, sink))
            try:
                _request_start(session.channel, start, watch)
            except Refused as refused:
                if sync is None or refused.code != STALE:
                    raise
                sync.generation = -1  # another notebook changed the checkout in between
            else:
                return
        raise CheckoutError("another notebook keeps changing this session's checkout: run the cell again")

    def _synchronise(self, channel: Channel, sync: CheckoutSync, sink: Sink) -> int:
        sent = sync.send(
            channel,
            lambda files, size_bytes: sink.note(
                f"sending {files:,} files with {size_bytes / 1e6:.0f} MB that changed in the checkout; "
                ".skyrlignore leaves folders out"
            ),
        )
        if sent.unreadable:
            left_out = f"{len(sent.unreadable)} of the checkout's files cannot be read and were left out"
            sink.note(f"{left_out}: {sent.unreadable[0]}")
        return sync.generation

    def _follow(
        self, session: Session, request: RunRequest, watch: Watch, takers: _Takers, interrupts: Interrupts
    ) -> tuple[protocol.RunEnded, str]:
        def send(attempt: int, number: signal.Signals) -> None:
            watch.events.put(Signalled(attempt, send_signal(session, watch.run_id, number, self._signal_timeout_s)))

        sink, rules = takers.sink, request.rules
        escalation = ESCALATION if takers.python is None else PYTHON_ESCALATION
        stop = Stop(send, watch.run_id, sink.note, self._clock, escalation, rules.grace_s)
        while True:
            for _ in range(interrupts.take()):
                if not stop.last:
                    self._leave_instead(session, request, watch.run_id, interrupts)
                stop.press()
            stop.tick()
            try:
                event = watch.events.get(timeout=_soonest(sink.flush_due_s, stop.due_s, takers.question_due_s))
            except queue.Empty:
                takers.idle()
                watch.seen = takers.seen()
                continue
            if isinstance(event, Lost):
                raise event.error
            if isinstance(event, Leave):
                raise RunLeft(f"run {watch.run_id} goes on")
            if isinstance(event, protocol.RunEnded):
                return event, stop.last
            if isinstance(event, Signalled):
                stop.answered(event)
            elif isinstance(event, Trouble):
                stop.unreachable = event.broken
                sink.note(_BROKEN if event.broken else _BACK)
            elif isinstance(event, protocol.Message):
                takers.take(event)
                watch.seen = takers.seen()

    @staticmethod
    def _leave_instead(session: Session, request: RunRequest, run_id: str, interrupts: Interrupts) -> None:
        """At the first Stop: where it does not mean the run, leave that. Raises RunLeft."""
        again = f"%skyrl_attach {run_id} shows it, %skyrl_cancel {run_id} stops it"
        if interrupts.kernel_ends():
            if request.rules.stop_on_exit:
                end_for_good(session, run_id, request.rules.grace_s)
                raise RunLeft(f"run {run_id} is being stopped, as this notebook's kernel ends")
            raise RunLeft(f"run {run_id} goes on without this notebook's kernel: {again}")
        if request.rules.detach:
            raise RunLeft(f"run {run_id} goes on: {again} (%config SkyRLMagic.on_interrupt is 'detach')")


class _Takers:
    """Where the pieces of a run's output go, and how far they have come."""

    def __init__(self, session: Session, request: RunRequest, run_id: str, sink: Sink, interrupts: Interrupts) -> None:
        self.sink = sink
        self.captured = {stream: bytearray() for stream in _captured(request)}
        self.python: PythonCell | None = None
        if request.kind == protocol.PYTHON:
            self.python = PythonCell(session, run_id, sink, interrupts, request.start[2], late=request.attached)
        self._run_id, self._notebook = run_id, request.notebook
        self._reached = dict(zip(protocol.JOURNAL_STREAMS, request.start, strict=True))
        self._seen: protocol.Seen | None = None

    def take(self, event: protocol.Message) -> None:
        if isinstance(event, protocol.Output) and event.stream in self.captured:
            self.captured[event.stream] += payload_bytes(event)
        elif isinstance(event, protocol.Output) and event.stream == protocol.OUTPUTS:
            if self.python is not None:
                self.python.feed(event)
        elif isinstance(event, (protocol.Output, protocol.Gap)):
            if self.python is not None:
                self.python.before_text()
            self.sink.feed(event)
        elif isinstance(event, protocol.Notice):
            self.sink.feed(event)
        if isinstance(event, protocol.Output):
            self._reached[event.stream] = event.offset + event.raw_bytes
        elif isinstance(event, protocol.Gap):
            self._reached[event.stream] = event.end

    @property
    def question_due_s(self) -> float | None:
        return None if self.python is None else self.python.question_due_s

    def idle(self) -> None:
        """Nothing has come for a while."""
        self.sink.tick()
        if self.python is not None:
            self.python.idle()

    def seen(self) -> protocol.Seen | None:
        """How far the user has seen the run, as of when all that had come was shown."""
        if self._notebook and self.sink.settled:
            out, err, outputs = self._reached.values()
            if self.python is not None:
                outputs = self.python.offset
            self._seen = protocol.Seen(self._run_id, self._notebook, out, err, outputs)
        return self._seen


def _soonest(*times_s: float | None) -> float | None:
    given = [t for t in times_s if t is not None]
    return min(given) if given else None


def _request_start(channel: Channel, start: protocol.StartRun, watch: Watch) -> None:
    channel.request(lambda number: dataclasses.replace(start, request=number), protocol.Done, also=watch.resume())


def _captured(request: RunRequest) -> list[str]:
    return [stream for stream, name in ((protocol.STDOUT, request.out), (protocol.STDERR, request.err)) if name]


def _watch_request(run_id: str, request: RunRequest) -> protocol.WatchRun:
    captured = _captured(request)
    out, err = (protocol.ALL if stream in captured else protocol.SHOW for stream in protocol.STREAMS)
    outputs = protocol.SHOW if request.kind == protocol.PYTHON else protocol.NONE
    return protocol.WatchRun(run_id, *request.start[:2], out, err, outputs=outputs, outputs_offset=request.start[2])
