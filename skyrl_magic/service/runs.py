"""Runs: a cell's command in a session, followed until it ends, and stopped for good when the user stops it."""

from __future__ import annotations

import dataclasses
import queue
import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import CheckoutError, RunLeft, RunStopped
from skyrl_magic.core.spec import RunRequest
from skyrl_magic.service.blobs import blob, put
from skyrl_magic.service.channel import Channel
from skyrl_magic.service.connection import Refused
from skyrl_magic.service.follow import Follower, Sink, captured_streams
from skyrl_magic.service.interrupts import Interrupts
from skyrl_magic.service.pricing import LOCAL
from skyrl_magic.service.python_cell import PythonEnd
from skyrl_magic.service.session import Session
from skyrl_magic.service.stop import (
    SIGNAL_TIMEOUT_S,
    end_run,
)
from skyrl_magic.service.sync import STALE, CheckoutSync, secrets_text
from skyrl_magic.service.watch import Lost, Pressed, Watch

#: How often a start is tried when another notebook changes the checkout at the same time.
_TRIES = 5
_BROKEN = "the connection to the session broke; reconnecting"
_BACK = "the connection to the session is back"
_ID_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"


@dataclass
class RunResult:
    """How a run ended."""

    run_id: str
    exit_code: int
    duration_s: float
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
    archive_error: str = ""
    """What of it is not kept on the volume, and why."""


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
            notebook=request.notebook,
            payload=request.cell.encode("utf-8", "surrogateescape"),
        )
        try:
            session.channel.patiently(lambda: self._start_reading(session, start, watch, sink, request.stdin))
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
        follower = Follower(session, request, watch, sink, interrupts or Interrupts(), self._clock)
        try:
            ended = follower.follow(self._signal_timeout_s)
        except RunLeft:
            follower.show_all()
            session.channel.leave(watch)
            raise
        except BaseException:
            session.channel.unwatch(watch)
            raise
        follower.show_all()
        session.channel.unwatch(watch)
        return RunResult(
            watch.run_id,
            ended.exit_code,
            ended.duration_s,
            follower.captured,
            follower.stopped_by or ended.cancelled,
            pressed_late=follower.pressed_late,
            python=None if follower.python is None else follower.python.end,
            reason=ended.reason,
            journal_error=ended.journal_error,
            archive_error=ended.archive_error,
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

    def _start_reading(
        self, session: Session, start: protocol.StartRun, watch: Watch, sink: Sink, stdin: bytes | None
    ) -> None:
        """Send the run's stdin, where it has one, and start it."""
        if not stdin:
            self._try_start(session, start, watch, sink)
            return
        with blob(session.channel) as name:
            put(session.channel, name, [stdin])
            self._try_start(session, dataclasses.replace(start, stdin=name), watch, sink)

    def _try_start(self, session: Session, start: protocol.StartRun, watch: Watch, sink: Sink) -> None:
        sync = session.sync
        for _ in range(_TRIES):
            if sync is not None:
                start = dataclasses.replace(start, generation=self._synchronise(session, sync, sink))
            try:
                _request_start(session.channel, start, watch)
            except Refused as refused:
                if sync is None or refused.code != STALE:
                    raise
                sync.generation = -1  # another notebook changed the checkout in between
            else:
                return
        raise CheckoutError("another notebook keeps changing this session's checkout: run the cell again")

    def _synchronise(self, session: Session, sync: CheckoutSync, sink: Sink) -> int:
        leaves = session.spec.backend != LOCAL
        sent = sync.send(
            session.channel,
            lambda files, size_bytes: sink.note(
                f"sending {files:,} files with {size_bytes / 1e6:.0f} MB that changed in the checkout; "
                ".skyrlignore leaves folders out"
            ),
            (lambda paths: sink.note(secrets_text(paths))) if leaves else None,
        )
        for text in sent.notes:
            sink.note(text)
        return sync.generation


def _request_start(channel: Channel, start: protocol.StartRun, watch: Watch) -> None:
    channel.request(lambda number: dataclasses.replace(start, request=number), protocol.Done, also=watch.resume())


def _watch_request(run_id: str, request: RunRequest) -> protocol.WatchRun:
    captured = captured_streams(request)
    out, err = (protocol.ALL if stream in captured else protocol.SHOW for stream in protocol.STREAMS)
    outputs = protocol.SHOW if request.kind == protocol.PYTHON else protocol.NONE
    return protocol.WatchRun(run_id, *request.start[:2], out, err, outputs=outputs, outputs_offset=request.start[2])
