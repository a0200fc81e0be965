"""Runs: a cell's command in a session, followed until it ends, and stopped for good when the user stops it."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import secrets
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import CheckoutError, RunStopped, SessionError
from skyrl_magic.core.spec import RunRequest
from skyrl_magic.service.channel import Channel
from skyrl_magic.service.connection import ChannelBroken, Refused
from skyrl_magic.service.interrupts import Interrupts
from skyrl_magic.service.python_cell import PythonCell, PythonEnd
from skyrl_magic.service.session import Session
from skyrl_magic.service.sync import STALE, CheckoutSync
from skyrl_magic.service.watch import Lost, Pressed, Signalled, Trouble, Watch, payload_bytes

#: A stopped run gets so long for each of SIGINT and SIGTERM before the next signal. In seconds.
GRACE_S = 5.0
#: How long a signal waits for its answer, and when it is sent again where the connection broke. In seconds.
SIGNAL_TIMEOUT_S = 10.0
_RESEND_S = 0.2
#: How often a start is tried when another notebook changes the checkout at the same time.
_TRIES = 5
ESCALATION = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
#: A Python kernel has variables that its user wants to keep: only the user's second press ends it, never a timer.
PYTHON_ESCALATION = (signal.SIGINT, signal.SIGKILL)
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
                _end(session, run_id, signal.SIGINT if request.kind == protocol.PYTHON else signal.SIGKILL)
                raise RunStopped("stopped before the run began") from None
            raise
        return watch

    def follow(
        self, session: Session, request: RunRequest, watch: Watch, sink: Sink, interrupts: Interrupts | None = None
    ) -> RunResult:
        """Feed ``sink`` until the run has ended.

        Stop, which ``interrupts`` tells of, ends the run: SIGINT, SIGTERM and SIGKILL to its process tree, with
        :data:`GRACE_S` or another press between them.

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
            watch.events.put(Signalled(attempt, _signal(session, watch.run_id, number, self._signal_timeout_s)))

        escalation = ESCALATION if takers.python is None else PYTHON_ESCALATION
        stop = _Stop(send, watch.run_id, sink.note, self._clock, escalation)
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


class _Stop:
    """The escalation of one run's stop. No signal is waited for: output and the next press have their turn meanwhile.

    Args:
        send: sends a signal and tells :meth:`answered` what came of it; called in a thread of its own.
        run_id: the run.
        note: shows one line.
        clock: monotonic, in seconds.
        escalation: the signals; a shell cell's follow one another by time too.
    """

    def __init__(
        self,
        send: Callable[[int, signal.Signals], object],
        run_id: str,
        note: Callable[[str], object],
        clock: Callable[[], float],
        escalation: Sequence[signal.Signals],
    ) -> None:
        self._send, self._run_id, self._note, self._clock = send, run_id, note, clock
        self._escalation = escalation
        self._step = -1  # in ESCALATION
        self._attempt = 0
        self._delivered = False
        self._next_at: float | None = None
        self.unreachable = False
        """The connection does not carry now."""

    @property
    def last(self) -> str:
        """The name of the last signal that was sent, or empty."""
        return self._escalation[self._step].name if self._step >= 0 else ""

    @property
    def due_s(self) -> float | None:
        """Seconds until something is to be sent, or None."""
        return None if self._next_at is None else max(0.0, self._next_at - self._clock())

    def press(self) -> None:
        """The user pressed Stop: the next signal is sent at once.

        Raises:
            RunStopped: there is none left.
        """
        if self.unreachable and self._step >= 0 and not self._delivered:
            raise RunStopped(f"left run {self._run_id}, which no signal reaches now: %skyrl_sessions shows its session")
        if self._step == len(self._escalation) - 1:
            what = "does not end even by SIGKILL" if self._delivered else "no signal reaches"
            raise RunStopped(f"left run {self._run_id}, which {what}: %skyrl_stop ends its session")
        self._send_step(self._step + 1)

    def tick(self) -> None:
        """Send the next signal when its time has come."""
        if self.due_s != 0.0:
            return
        if self._delivered:
            before = self.last
            self._send_step(self._step + 1)
            self._note(f"{before} did not end the run: {self.last} follows")
        else:
            self._send_step(self._step)

    def answered(self, answer: Signalled) -> None:
        """A signal has reached the run, or the connection broke and it is sent again."""
        if answer.attempt != self._attempt:
            return  # another one was sent since
        self._delivered = answer.delivered
        if not self._delivered:
            self._next_at = self._clock() + _RESEND_S
        elif self._step < len(self._escalation) - 1 and self._escalation is not PYTHON_ESCALATION:
            self._next_at = self._clock() + GRACE_S

    def _send_step(self, step: int) -> None:
        self._step, self._delivered, self._next_at = step, False, None
        self._attempt += 1
        arguments = (self._attempt, self._escalation[step])
        threading.Thread(target=self._send, args=arguments, name="skyrl-signal", daemon=True).start()


def _signal(session: Session, run_id: str, number: int, timeout_s: float) -> bool:
    """Send a signal; False where the connection broke, so that it should be sent again."""
    try:
        session.channel.request(lambda n: protocol.SignalRun(n, run_id, int(number)), protocol.Done, timeout_s)
    except ChannelBroken:
        return False
    except SessionError:
        pass  # no answer, and the next signal follows; or the session is gone, as the watch says
    return True


def _end(session: Session, run_id: str, number: int) -> None:
    """End a run that may have begun, over the next connection where the interrupt broke this one."""

    def end() -> None:
        session.channel.request(lambda n: protocol.SignalRun(n, run_id, int(number)), protocol.Done)

    with contextlib.suppress(SessionError):  # it had not begun, or the session is gone
        session.channel.patiently(end)


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
