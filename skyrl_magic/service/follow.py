"""A run as it is followed: its events taken one by one, its stop, and how far the user has seen it."""

from __future__ import annotations

import queue
import signal
from collections.abc import Callable
from typing import Protocol

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import RunLeft
from skyrl_magic.core.spec import RunRequest
from skyrl_magic.service.interrupts import LOOK_S, Interrupts, look_s
from skyrl_magic.service.python_cell import PythonCell
from skyrl_magic.service.run_names import ways_to
from skyrl_magic.service.session import Session
from skyrl_magic.service.stop import ESCALATION, PYTHON_ESCALATION, Stop, end_for_good, send_signal
from skyrl_magic.service.watch import Leave, Lost, Pressed, Signalled, Trouble, Watch, WatchEvent, payload_bytes

_BROKEN = "the connection to the session broke; reconnecting"
_BACK = "the connection to the session is back"
#: A Python cell that waits behind another one for so long says so, in seconds.
_PATIENCE_S = 1.5


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
        """Take an Output or a Gap; or a Notice, for the session may have something to show to who shows anything."""
        ...

    def tick(self) -> None:
        """Show what is due."""
        ...

    def flush(self) -> None:
        """Show all that waits; more may come."""
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


class Follower:
    """Follows one run.

    Args:
        session: where it runs.
        request: what was asked for.
        watch: where its events come.
        sink: takes what is to be shown.
        interrupts: tell of Stop.
        clock: monotonic, in seconds.
    """

    def __init__(  # noqa: PLR0913, PLR0917  (all that a run's life touches)
        self,
        session: Session,
        request: RunRequest,
        watch: Watch,
        sink: Sink,
        interrupts: Interrupts,
        clock: Callable[[], float],
    ) -> None:
        self._session, self._request, self._watch = session, request, watch
        self._sink, self._interrupts, self._clock = sink, interrupts, clock
        self.captured = {stream: bytearray() for stream in captured_streams(request)}
        self.python: PythonCell | None = None
        if request.kind == protocol.PYTHON:
            start, late = request.start[2], request.attached
            self.python = PythonCell(session, watch.run_id, sink, interrupts, start, late=late)
        self._reached = dict(zip(protocol.JOURNAL_STREAMS, request.start, strict=True))
        self._stop: Stop | None = None
        self._behind, self._say_at = "", 0.0

    @property
    def stopped_by(self) -> str:
        """The name of the last signal that the user's Stop has sent, or empty."""
        return "" if self._stop is None else self._stop.last

    @property
    def pressed_late(self) -> bool:
        """Whether Stop was pressed when the run had ended."""
        return self._interrupts.take() > 0

    def follow(self, signal_timeout_s: float) -> protocol.RunEnded:
        """Take events until the run has ended.

        Args:
            signal_timeout_s: how long a signal waits for its answer.

        Raises:
            SessionLost: the container ended meanwhile. RunStopped: the run does not end even when it is killed.
            RunLeft: nobody is to follow it any more.
        """
        run_id = self._watch.run_id

        def send(attempt: int, number: signal.Signals) -> None:
            delivered = send_signal(self._session, run_id, number, signal_timeout_s)
            self._watch.events.put(Signalled(attempt, delivered))

        escalation = ESCALATION if self.python is None else PYTHON_ESCALATION
        stop = Stop(send, run_id, self._sink.note, self._clock, escalation, self._request.rules.grace_s)
        self._stop = stop
        while True:
            for _ in range(self._interrupts.take()):
                if not stop.last:
                    self._leave_instead(run_id)
                stop.press()
            stop.tick()
            event = self._next(stop)
            if isinstance(event, protocol.RunEnded):
                return event
            self._take(event, stop)

    def show_all(self) -> None:
        """Show what still waits: what was seen of the run is told to the agent when the watch ends."""
        self._sink.flush()
        self._note_seen()

    def _next(self, stop: Stop) -> WatchEvent | None:
        """The next event; None when there is something else to do first."""
        question_due_s = None if self.python is None else self.python.question_due_s
        due_s = _soonest(self._sink.flush_due_s, stop.due_s, question_due_s)
        try:
            return self._watch.events.get(timeout=look_s(due_s))
        except queue.Empty:
            return None if due_s is not None and due_s <= LOOK_S else Pressed()  # as far as one can know

    def _say_what_it_waits_for(self) -> None:
        """Once: a kernel executes one cell at a time, and that of another run may take hours."""
        if self._behind and self._clock() >= self._say_at:
            ways = f"%skyrl_attach {self._behind} shows that run, %skyrl_cancel {self._behind} stops it"
            self._sink.note(f"waits for the Python kernel, which executes the cell of run {self._behind}: {ways}")
            self._behind = ""

    def _take(self, event: WatchEvent | None, stop: Stop) -> None:
        if event is None:
            self._sink.tick()
            if self.python is not None:
                self.python.idle()
        elif isinstance(event, Lost):
            raise event.error
        elif isinstance(event, Leave):
            raise RunLeft(f"run {self._watch.run_id} goes on")
        elif isinstance(event, Signalled):
            stop.answered(event)
        elif isinstance(event, Trouble):
            stop.unreachable = event.broken
            self._sink.note(_BROKEN if event.broken else _BACK)
        elif isinstance(event, (protocol.Output, protocol.Gap)):
            self._take_output(event)
        elif isinstance(event, protocol.Notice):
            self._sink.feed(event)
        elif isinstance(event, (protocol.RunWaiting, protocol.RunStarted)):
            self._take_start(event)
        self._say_what_it_waits_for()
        self._note_seen()

    def _take_start(self, event: protocol.RunWaiting | protocol.RunStarted) -> None:
        other = event.reason if isinstance(event, protocol.RunWaiting) else ""
        self._behind = "" if other == protocol.FOR_RAY else other
        self._say_at = self._clock() + _PATIENCE_S

    def _take_output(self, event: protocol.Output | protocol.Gap) -> None:
        self._reached[event.stream] = event.end if isinstance(event, protocol.Gap) else event.offset + event.raw_bytes
        if isinstance(event, protocol.Output) and event.stream in self.captured:
            self.captured[event.stream] += payload_bytes(event)
        elif event.stream != protocol.OUTPUTS:
            if self.python is not None:
                self.python.before_text()
            self._sink.feed(event)
        elif self.python is not None and isinstance(event, protocol.Output):
            self.python.feed(event)

    def _note_seen(self) -> None:
        """Let the agent know how far the user has seen the run, as of when all that had come was shown."""
        if self._request.notebook and self._sink.settled:
            out, err, outputs = self._reached.values()
            if self.python is not None:
                outputs = self.python.offset
            self._watch.seen = protocol.Seen(self._watch.run_id, self._request.notebook, out, err, outputs)

    def _leave_instead(self, run_id: str) -> None:
        """At the first Stop: where it does not mean the run, leave that. Raises RunLeft."""
        rules, again = self._request.rules, ways_to(run_id)
        if self._interrupts.kernel_ends():
            if rules.stop_on_exit:
                end_for_good(self._session, run_id, rules.grace_s)
                raise RunLeft(f"run {run_id} is being stopped, as this notebook's kernel ends")
            raise RunLeft(f"run {run_id} goes on without this notebook's kernel: {again}")
        if rules.detach:
            raise RunLeft(f"run {run_id} goes on: {again} (%config SkyRLMagic.on_interrupt is 'detach')")


def captured_streams(request: RunRequest) -> list[str]:
    """The streams that go into variables, or are returned."""
    wanted = ((protocol.STDOUT, request.out or request.value), (protocol.STDERR, request.err))
    return [stream for stream, name in wanted if name]


def _soonest(*times_s: float | None) -> float | None:
    given = [t for t in times_s if t is not None]
    return min(given) if given else None
