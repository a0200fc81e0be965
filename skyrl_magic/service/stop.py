"""How the user's Stop ends a run: one signal after another, until the run is over or nothing is left."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Sequence

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import RunStopped, SessionError
from skyrl_magic.service.connection import ChannelBroken
from skyrl_magic.service.session import Session
from skyrl_magic.service.watch import Signalled

#: How long a signal waits for its answer, and when it is sent again where the connection broke. In seconds.
SIGNAL_TIMEOUT_S = 10.0
_RESEND_S = 0.2
#: A press that soon after the last signal gives nothing up: that takes a moment, and some press five times.
_IMPATIENT_S = 1.0
ESCALATION = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
#: A Python kernel has variables that its user wants to keep: only the user's second press ends it, never a timer.
PYTHON_ESCALATION = (signal.SIGINT, signal.SIGKILL)


class Stop:
    """The escalation of one run's stop. No signal is waited for: output and the next press have their turn meanwhile.

    Args:
        send: sends a signal and tells :meth:`answered` what came of it; called in a thread of its own.
        run_id: the run.
        note: shows one line.
        clock: monotonic, in seconds.
        escalation: the signals; a shell cell's follow one another by time too.
        grace_s: how long the run gets for each of SIGINT and SIGTERM before the next signal, in seconds.
    """

    def __init__(  # noqa: PLR0913, PLR0917  (how to send, how to tell, and the rules)
        self,
        send: Callable[[int, signal.Signals], object],
        run_id: str,
        note: Callable[[str], object],
        clock: Callable[[], float],
        escalation: Sequence[signal.Signals],
        grace_s: float,
    ) -> None:
        self._send, self._run_id, self._note, self._clock = send, run_id, note, clock
        self._escalation, self._grace_s = escalation, grace_s
        self._step = -1  # in ESCALATION
        self._attempt = 0
        self._delivered = False
        self._next_at: float | None = None
        self._sent_at = 0.0
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
        if self._step < len(self._escalation) - 1:
            self._send_step(self._step + 1)
        elif self._clock() - self._sent_at >= _IMPATIENT_S:  # else they were pressed in a row
            what = "does not end even by SIGKILL" if self._delivered else "no signal reaches"
            raise RunStopped(f"left run {self._run_id}, which {what}: %skyrl_stop ends its session")

    def tick(self) -> None:
        """Send the next signal when its time has come."""
        if self.due_s != 0.0:
            return
        if self._delivered and self._escalation is PYTHON_ESCALATION:
            self._next_at = None
            self._note(
                f"{self.last} did not end the cell: ■ again ends its Python kernel, and its variables are gone then"
            )
        elif self._delivered:
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
        elif self._step < len(self._escalation) - 1:
            self._next_at = self._clock() + self._grace_s

    def _send_step(self, step: int) -> None:
        self._step, self._delivered, self._next_at = step, False, None
        self._attempt += 1
        self._sent_at = self._clock()
        arguments = (self._attempt, self._escalation[step])
        threading.Thread(target=self._send, args=arguments, name="skyrl-signal", daemon=True).start()


def send_signal(session: Session, run_id: str, number: int, timeout_s: float) -> bool:
    """Send a signal; False where the connection broke, so that it should be sent again."""
    try:
        session.channel.request(lambda n: protocol.SignalRun(n, run_id, int(number)), protocol.Done, timeout_s)
    except ChannelBroken:
        return False
    except SessionError:
        pass  # no answer, and the next signal follows; or the session is gone, as the watch says
    return True


def end_run(session: Session, run_id: str, number: int) -> None:
    """End a run that may have begun, over the next connection where the interrupt broke this one."""

    def end() -> None:
        session.channel.request(lambda n: protocol.SignalRun(n, run_id, int(number)), protocol.Done)

    with contextlib.suppress(SessionError):  # it had not begun, or the session is gone
        session.channel.patiently(end)


def end_for_good(session: Session, run_id: str, grace_s: float) -> None:
    """Let the agent end a run: it goes on with that when this client is gone. Raises SessionError."""
    channel = session.channel
    channel.patiently(lambda: channel.request(lambda n: protocol.EndRun(n, run_id, grace_s), protocol.Done))
