"""A cell's display as the services see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skyrl_magic.core import protocol
from skyrl_magic.core.spec import RunRequest
from skyrl_magic.service.follow import Sink
from skyrl_magic.service.interrupts import Interrupts
from skyrl_magic.service.session import Session
from skyrl_magic.ui.cell_outputs import CellOutputs
from skyrl_magic.ui.display import RunDisplay, in_kernel, note
from skyrl_magic.ui.front_end import ask
from skyrl_magic.ui.remote_outputs import RemoteOutputs


class CellSink:
    """``service.runs.Sink`` on a cell's display; what that waits for, Stop cuts short.

    Args:
        run_id: the run.
        outputs: where the notebook shows what Python kernels send.
        interrupts: of the cell.
        start: the offsets at which the streams begin here.
        also: hears all of it too.
    """

    def __init__(
        self,
        run_id: str,
        outputs: RemoteOutputs,
        interrupts: Interrupts,
        start: Mapping[str, int] | None = None,
        also: Sink | None = None,
    ) -> None:
        self._also = also
        self._outputs = outputs
        self._run_id = run_id
        self._here = CellOutputs() if in_kernel() else None
        self._place: CellOutputs | None = None
        self._display = RunDisplay(run_id, publish=self._publish, pause=interrupts.pause, start=start)
        self._session: Session | None = None
        self._keeps_value = False
        self.value_count: Any = None
        """The number of the value that was kept back, as in the remote ``Out``; what a container sends."""

    def joined(self, session: Session, request: RunRequest, *, keeps_value: bool) -> None:
        """Where the run is; with ``keeps_value`` its value is assigned, and not shown."""
        self._session, self._keeps_value = session, keeps_value
        if request.kind == protocol.PYTHON and self._here is not None:
            self._place = self._outputs.keep(session, self._run_id, self._here)
            self._outputs.comms.use(session)

    def _publish(self, message: protocol.KernelMessage) -> None:
        if self._session is not None and self._place is not None:
            self._outputs.publish(self._session, self._place, message)

    @property
    def settled(self) -> bool:
        """Whether all that was fed is shown."""
        return self._display.settled

    @property
    def flush_due_s(self) -> float | None:
        """Seconds until :meth:`tick`."""
        return self._display.flush_due_s

    def feed(self, event: protocol.Message) -> None:
        """Show an event."""
        if isinstance(event, (protocol.Output, protocol.Gap)):
            self._display.feed(event)
            if self._also is not None:
                self._also.feed(event)
        elif isinstance(event, protocol.Notice) and self._session is not None:
            for text in self._session.take_notices():
                note(text)

    def tick(self) -> None:
        """Show what is due."""
        self._display.tick()

    def flush(self) -> None:
        """Show all that waits."""
        self._display.flush()

    def note(self, text: str) -> None:
        """Show one line."""
        note(text)

    def message(self, message: protocol.KernelMessage) -> None:
        """Show a Python cell's message."""
        if self._keeps_value and message.msg_type == "execute_result":
            self.value_count = message.content.get("execution_count")
            return
        self._display.message(message)
        if self._also is not None:
            self._also.message(message)

    def ask(self, prompt: str, *, password: bool) -> str:
        """Ask the user, after all that was printed."""
        self._display.flush()
        return ask(prompt, password=password)

    def error_follows(self) -> None:
        """The cell ends with an error that IPython shows, as its last output."""
        self._display.pass_clear_on()

    def close(self, final: str | None) -> None:
        """Show all that waits, and the last line."""
        self._display.close(final)
