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
from skyrl_magic.core.errors import CheckoutError, RunStopped
from skyrl_magic.core.spec import RunRequest
from skyrl_magic.service.channel import Channel
from skyrl_magic.service.connection import Refused
from skyrl_magic.service.interrupts import Interrupts
from skyrl_magic.service.python_cell import PythonCell, PythonEnd
from skyrl_magic.service.session import Session
from skyrl_magic.service.stop import ESCALATION, PYTHON_ESCALATION, SIGNAL_TIMEOUT_S, Stop, end_run, send_signal
from skyrl_magic.service.sync import STALE, CheckoutSync
from skyrl_magic.service.watch import Lost, Pressed, Signalled, Trouble, Watch, payload_bytes

#: How often a start is tried when another notebook changes the checkout at the same time.
_TRIES = 5
_BROKEN = "the connection to the session broke; reconnecting"
_BACK = "the connection to the session is back"
_ID_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"


class Sink(Protocol):
    """Where a run's events go: the cell's display."""

    @property
    def flush_due_s(self) -> float | None:
        """Seconds until :meth:`tick` should be called, or None."""
        ...

    def feed(self, event: protocol.Message) -> None:
        """Take an Output or a Gap."""
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

    def follow(
        self, session: Session, request: RunRequest, watch: Watch, sink: Sink, interrupts: Interrupts | None = None
    ) -> RunResult:
        """Feed ``sink`` until the run has ended.

        Stop, which ``interrupts`` tells of, ends the run: SIGINT, SIGTERM and SIGKILL to its process tree, with
        ``stop.GRACE_S`` or another press between them.

        Raises:
            SessionLost: the container ended meanwhile. RunStopped: the run does not end even when it is killed.
        """
        captured = {stream: bytearray() for stream in _captured(request)}
        interrupts = interrupts or Interrupts()
        python = PythonCell(session, watch.run_id, sink, interrupts) if request.kind == protocol.PYTHON else None
        try:
            ended, stopped = self._follow(session, watch, sink, _Takers(sink, captured, python), interrupts)
        finally:
            session.channel.unwatch(watch)
        return RunResult(
            watch.run_id,
            ended.exit_code,
            ended.duration_s,
            ended.commit_error,
            captured,
            stopped,
            pressed_late=interrupts.take() > 0,
            python=None if python is None else python.end,
            reason=ended.reason,
            journal_error=ended.journal_error,
        )

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
        self, session: Session, watch: Watch, sink: Sink, takers: _Takers, interrupts: Interrupts
    ) -> tuple[protocol.RunEnded, str]:
        def send(attempt: int, number: signal.Signals) -> None:
            watch.events.put(Signalled(attempt, send_signal(session, watch.run_id, number, self._signal_timeout_s)))

        escalation = ESCALATION if takers.python is None else PYTHON_ESCALATION
        stop = Stop(send, watch.run_id, sink.note, self._clock, escalation)
        while True:
            for _ in range(interrupts.take()):
                stop.press()
            stop.tick()
            try:
                event = watch.events.get(timeout=_soonest(sink.flush_due_s, stop.due_s))
            except queue.Empty:
                sink.tick()
                continue
            if isinstance(event, Lost):
                raise event.error
            if isinstance(event, protocol.RunEnded):
                return event, stop.last
            if isinstance(event, Signalled):
                stop.answered(event)
            elif isinstance(event, Trouble):
                stop.unreachable = event.broken
                sink.note(_BROKEN if event.broken else _BACK)
            elif isinstance(event, protocol.Message):
                takers.take(event)


@dataclass
class _Takers:
    """Where the pieces of a run's output go."""

    sink: Sink
    captured: dict[str, bytearray]
    python: PythonCell | None

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
    return protocol.WatchRun(run_id=run_id, stdout=out, stderr=err, outputs=outputs)
