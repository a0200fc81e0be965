"""A Python cell's run as it is followed: its messages, its questions, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from skyrl_magic.core import protocol
from skyrl_magic.core.outputs import ERROR, EXECUTE_REPLY, INPUT_REQUEST, KERNEL_DIED, OutputsDecoder
from skyrl_magic.core.tracebacks import bounded_error
from skyrl_magic.service.interrupts import Interrupts
from skyrl_magic.service.session import Session

#: A question that nothing follows for so long has no answer yet, in seconds.
_UNANSWERED_S = 0.5


class CellView(Protocol):
    """Where a Python cell's messages go."""

    def message(self, message: protocol.KernelMessage) -> None:
        """Show one."""
        ...

    def ask(self, prompt: str, *, password: bool) -> str:
        """Ask the user. Raises KeyboardInterrupt."""
        ...


@dataclass
class PythonEnd:
    """How a Python cell ended."""

    error: protocol.KernelMessage | None = None
    """Jupyter's ``error`` message, where it is the last thing that the cell shows; it was not shown yet."""
    failed: str = ""
    """The name of the error that the kernel replied with; empty where the cell ended well."""
    count: int | None = None
    """Its number in the session's kernel; None where that has not said it."""
    died: str = ""
    """Why the kernel ended under the cell; empty where it lives."""

    @property
    def well(self) -> bool:
        """Whether the cell ran to its end."""
        return not (self.error or self.failed or self.died)

    payload: list[Mapping[str, Any]] = field(default_factory=list)
    """What the kernel asks of the front end (a page of help, the next cell's text), as in Jupyter's reply."""

    @property
    def exits(self) -> bool:
        """Whether the cell has ended its kernel with ``exit``."""
        return any(item.get("source") == "ask_exit" and not item.get("keepkernel") for item in self.payload)


class PythonCell:
    """Takes a run's ``outputs``.

    Args:
        session: where it runs.
        run_id: the run.
        view: shows the messages.
        interrupts: of the cell.
        start: the byte of ``outputs`` from which on it is taken.
        late: the cell came to a run that was going on: what that has asked may have been answered elsewhere.
    """

    def __init__(  # noqa: PLR0913  (what, where, and from which byte on)
        self,
        session: Session,
        run_id: str,
        view: CellView,
        interrupts: Interrupts,
        start: int = 0,
        *,
        late: bool = False,
    ) -> None:
        self._late = late
        self._question: Mapping[str, Any] | None = None
        self._session, self._run_id, self._view, self._interrupts = session, run_id, view, interrupts
        self._decoder = OutputsDecoder(start)
        self.end = PythonEnd()

    @property
    def offset(self) -> int:
        """The byte of ``outputs`` behind the last message that was taken."""
        return self._decoder.offset

    @property
    def question_due_s(self) -> float | None:
        """Seconds until :meth:`idle` has a question to ask, when nothing comes; None without one."""
        return None if self._question is None else _UNANSWERED_S

    def idle(self) -> None:
        """Nothing came after the last question: it is still open, and the user is asked."""
        question, self._question = self._question, None
        if question is not None:
            self._ask(question)

    def feed(self, event: protocol.Output) -> None:
        """Take a frame. Raises ProtocolError for a damaged one."""
        for message in self._decoder.feed(event):
            self._take(message)

    def before_text(self) -> None:
        """Text of the cell comes: what was shown before it is shown before it."""
        self._question = None
        self._show_held()

    def _take(self, message: protocol.KernelMessage) -> None:
        kind = message.msg_type
        self._question = None
        if kind == KERNEL_DIED:
            self.end.died = str(message.content.get("cause", ""))
        elif kind == EXECUTE_REPLY:
            self._replied(message.content)
        elif kind == INPUT_REQUEST and self._late:
            self._question = message.content
        elif kind == INPUT_REQUEST:
            self._ask(message.content)
        else:
            self._show_held()  # an error that was not the cell's end
            if kind == ERROR:
                self.end.error = bounded_error(message, self._run_id)
            else:
                self._view.message(message)

    def _replied(self, content: Mapping[str, Any]) -> None:
        if content.get("status") == "ok":
            self._show_held()
        else:
            self.end.failed = str(content.get("ename") or "error")
        count = content.get("execution_count")
        self.end.count = count if isinstance(count, int) else None
        payload = content.get("payload")
        if isinstance(payload, list):
            self.end.payload = [item for item in payload if isinstance(item, dict)]

    def _show_held(self) -> None:
        if self.end.error is not None:
            self._view.message(self.end.error)
            self.end.error = None

    def _ask(self, content: Mapping[str, Any]) -> None:
        try:
            with self._interrupts.raising():
                value = self._view.ask(str(content.get("prompt", "")), password=bool(content.get("password")))
        except KeyboardInterrupt:
            self._interrupts.press()
            return
        self._session.channel.patiently(lambda: self._session.channel.send(protocol.InputReply(self._run_id, value)))
