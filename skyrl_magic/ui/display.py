"""The cell's output: a run's streams, the phases of a start, and notices. Only this module knows IPython's display.

In a kernel, redrawn lines, the tail and notices are ``text/plain`` displays. Front ends render ANSI colours in those
and nothing else, so that no output of a container can be HTML. In a terminal or a script, everything is written to
``sys.stdout`` and ``sys.stderr``. Used from the cell's own thread only: what another thread writes would appear under
whichever cell runs then.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TextIO

from IPython.core.display_functions import publish_display_data
from IPython.core.getipython import get_ipython

from skyrl_magic.core.ansi import Tokenizer, harmless
from skyrl_magic.core.cell_record import ShownDisplay, ShownText
from skyrl_magic.core.display_budget import KernelBudget
from skyrl_magic.core.display_intake import Intake
from skyrl_magic.core.display_plan import DisplayPlan
from skyrl_magic.core.display_queue import Action, ShowMessage, ShowText, StreamText, UpdateText
from skyrl_magic.core.display_tail import left_out_line
from skyrl_magic.core.protocol import STDERR, STREAMS, Gap, KernelMessage, Output
from skyrl_magic.core.protocol.durations import duration_text
from skyrl_magic.ui.cell_outputs import CellOutputs, plain_text
from skyrl_magic.ui.cell_records import clear_output, current_record, update_records

Clock = Callable[[], float]
#: Of all cells of this kernel, by the clock of :func:`time.monotonic`.
_kernel_budget = KernelBudget()
Publish = Callable[[KernelMessage], None]
#: Waits so many seconds; True where the user does not want to wait any longer.
Pause = Callable[[float], bool]

_FULL_SCREEN = (
    "this program draws a whole screen, and a cell is no terminal: its text comes line by line and it gets no keys; "
    "■ stops it, and many have a mode for scripts (top -b, ex -s)"
)


class RunDisplay:
    """Shows a run in the cell. Feed it the run's frames, and call :meth:`tick` when :attr:`flush_due_s` has passed.

    Args:
        run_id: the run, for the line that says how to read what was left out.
        clock: monotonic time in seconds.
        publish: shows a message of a Python cell; by default under the cell that runs.
        pause: waits where the kernel has shown all that it may for now.
        start: the offsets at which the streams begin here; by default at 0.
        whole: Ray's lines about itself are shown too.
    """

    def __init__(  # noqa: PLR0913  (each has a default that fits most)
        self,
        run_id: str,
        *,
        clock: Clock = time.monotonic,
        publish: Publish | None = None,
        pause: Pause | None = None,
        start: Mapping[str, int] | None = None,
        whole: bool = False,
    ) -> None:
        self._view: _KernelView | _TerminalView
        if in_kernel():
            # A run can be shown in several cells, also of several notebooks: the run's id alone is not unique.
            kernel = _kernel_budget if clock is time.monotonic else None
            plan = DisplayPlan(run_id, _display_id(), kernel, start=start, whole=whole, record=current_record())
            self._view = _KernelView(run_id, plan, clock, publish, pause)
        else:
            self._view = _TerminalView(run_id, start)
        self._told_full_screen = False

    def feed(self, event: Output | Gap) -> None:
        """Take the run's next frame, and show what is due. Raises :class:`ProtocolError` for a damaged frame."""
        self._view.feed(event)
        self._view.tick()
        if self._view.full_screen and not self._told_full_screen:
            self._told_full_screen = True
            note(_FULL_SCREEN)

    @property
    def flush_due_s(self) -> float | None:
        """Seconds until :meth:`tick` has something to do; None while nothing waits."""
        return self._view.due_in_s()

    def tick(self) -> None:
        """Show what is due."""
        self._view.tick()

    def message(self, message: KernelMessage) -> None:
        """Take a message of a Python cell, and show what is due."""
        self._view.message(message)
        self._view.tick()

    def pass_clear_on(self) -> None:
        """An output comes that is not shown here: a ``clear_output`` that waits for one waits for that."""
        self._view.pass_clear_on()

    def flush(self) -> None:
        """Show everything that waits; more may come."""
        self._view.close()

    def close(self, final: str | None = None) -> None:
        """Show everything that waits, then ``final``, the line about how the run ended."""
        self._view.close()
        if final:
            note(final)

    @property
    def settled(self) -> bool:
        """Whether all that was fed is shown."""
        return self._view.settled

    @property
    def offsets(self) -> dict[str, int]:
        """For each stream, the offset of the next byte: where a watch of the run goes on."""
        return self._view.intake.offsets


class PhaseLine:
    """One line that says what a start is doing, with times: ``image 0.2 s · checkout 0.4 s · Ray 9 s …``.

    Args:
        clock: monotonic time in seconds.
    """

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._line = _KernelLine() if in_kernel() else _TerminalLine()
        self._done: list[str] = []
        self._phase = self._hint = ""
        self._since_s = 0.0

    def begin(self, phase: str, hint: str = "") -> None:
        """The current phase is over, and ``phase`` begins; ``hint`` is shown as long as it goes on."""
        self._end_phase()
        self._phase, self._hint, self._since_s = phase, hint, self._clock()
        self.tick()

    def tick(self) -> None:
        """Show the running phase's time; call it about once a second."""
        self._line.show(" · ".join(self._done + ([self._running()] if self._phase else [])))

    def done(self, text: str | None = None) -> None:
        """Replace the line by ``text`` and the phases with their times, or by these alone."""
        self._end_phase()
        phases = " · ".join(self._done)
        self._line.end(phases if text is None else f"{text} ({phases})" if phases else text)

    def _running(self) -> str:
        passed_s = self._clock() - self._since_s
        time_text = duration_text(int(passed_s))
        if self._hint:
            return f"{self._phase}, {time_text}; {self._hint}"
        return f"{self._phase} {time_text} …" if passed_s >= 1 else f"{self._phase} …"

    def _end_phase(self) -> None:
        if self._phase:
            self._done.append(f"{self._phase} {duration_text(self._clock() - self._since_s)}")
            self._phase = ""


def note(text: str) -> None:
    """Show one line about what this package does; never dropped, as it is no part of the run's streams."""
    line = _KernelLine() if in_kernel() else _TerminalLine()
    line.end(text)


def in_kernel() -> bool:
    """Whether displays reach a front end: a notebook's kernel, not IPython in a terminal and not a script."""
    return getattr(get_ipython(), "kernel", None) is not None


class _KernelView:
    def __init__(
        self, run_id: str, plan: DisplayPlan, clock: Clock, publish: Publish | None, pause: Pause | None
    ) -> None:
        self._run_id = run_id
        self._plan = plan
        self._clock = clock
        self._pause = pause or _sleep
        self._left_out = False
        self._publish = publish or CellOutputs().publish
        self.intake = plan.intake

    @property
    def full_screen(self) -> bool:
        return self._plan.full_screen

    @property
    def settled(self) -> bool:
        return self._plan.settled

    def feed(self, event: Output | Gap) -> None:
        self._plan.feed(event, self._clock())

    def message(self, message: KernelMessage) -> None:
        self._plan.show(message, self._clock())

    def pass_clear_on(self) -> None:
        self._plan.pass_clear_on(self._clock())

    def due_in_s(self) -> float | None:
        now_s = self._clock()
        due_s = self._plan.due_s(now_s)
        return None if due_s is None else max(0.0, due_s - now_s)

    def tick(self) -> None:
        for action in self._plan.messages(self._clock()):
            self._perform(action)

    def close(self) -> None:
        for action in self._plan.finish(self._clock()):
            self._perform(action)
        while not self._left_out and (rest_s := self._plan.rest_s(self._clock())) is not None:
            self._left_out = self._pause(rest_s)
            if self._left_out:
                note(f"… the rest is left out here; %skyrl_logs {self._run_id} shows it")
                return
            for action in self._plan.finish(self._clock()):
                self._perform(action)

    def _perform(self, action: Action) -> None:
        if isinstance(action, ShowMessage):
            self._publish(action.message)
        elif isinstance(action, StreamText):
            _write(action.stream, action.text)
        else:
            _show_text(action)


class _TerminalView:
    """A terminal redraws by itself and has no budget: the text goes through, without what could harm."""

    settled = True

    def __init__(self, run_id: str, start: Mapping[str, int] | None) -> None:
        self.intake = Intake(start)
        self._run_id = run_id
        self._tokens = {name: Tokenizer() for name in STREAMS}

    @property
    def full_screen(self) -> bool:
        return any(tokens.full_screen for tokens in self._tokens.values())

    def feed(self, event: Output | Gap) -> None:
        missing_bytes, data = self.intake.take(event)
        tokens = self._tokens[event.stream]
        if missing_bytes:
            tokens.reset()
            _write(event.stream, f"\n{left_out_line(self._run_id, missing_bytes)}\n")
        _write(event.stream, "".join(map(harmless, tokens.feed(data))))

    def message(self, message: KernelMessage) -> None:
        _write("stdout", plain_text(message))

    def pass_clear_on(self) -> None:
        pass

    def due_in_s(self) -> float | None:
        return None

    def tick(self) -> None:
        pass

    def close(self) -> None:
        for name, tokens in self._tokens.items():
            _write(name, "".join(map(harmless, tokens.feed(b"", final=True))))


class _KernelLine:
    def __init__(self) -> None:
        self._display_id = _display_id()
        self._text: str | None = None

    def show(self, text: str) -> None:
        if text != self._text:
            _publish(self._display_id, {"text/plain": text}, update=self._text is not None)
            self._text = text

    end = show


class Place:
    """A display whose content can be replaced, from any thread; in a terminal it is written once.

    Args:
        data: by MIME type, ``text/plain`` among them.
    """

    def __init__(self, data: dict[str, str]) -> None:
        self._display_id = _display_id()
        self._data = data
        self._kernel = in_kernel()
        if self._kernel:
            _publish(self._display_id, data, update=False)
        else:
            _write("stdout", data["text/plain"] + "\n")

    def update(self, data: dict[str, str]) -> None:
        """Show ``data`` instead, where that is something else."""
        if self._kernel and data != self._data:
            _publish(self._display_id, data, update=True)
            _kernel_budget.spend(time.monotonic(), 1, sum(map(len, data.values())))
            self._data = data


class _TerminalLine:
    def show(self, text: str) -> None:
        if sys.stdout.isatty():
            _write("stdout", f"\r{text}\x1b[K")

    def end(self, text: str) -> None:
        self.show(text)
        _write("stdout", "\n" if sys.stdout.isatty() else f"{text}\n")


def _sleep(wait_s: float) -> bool:
    time.sleep(wait_s)
    return False


def _fill_again(stream: str, lines: str) -> None:
    """Clear the cell and show again what it has shown, without a stream's last lines, where all of it is known."""
    record = current_record()
    outputs = None if record is None else record.without(stream, lines)
    if record is None or outputs is None or not clear_output():
        return
    place = CellOutputs()
    for shown in outputs:
        if isinstance(shown, ShownText):
            _send_text(shown.stream, shown.text)
        elif isinstance(shown, ShownDisplay):
            _send_display(shown.display_id, shown.data, update=False)
        else:
            place.send_again(shown)
    record.fill(outputs)


def _show_text(action: ShowText | UpdateText) -> None:
    if action.instead_of:
        _fill_again(action.stream, action.instead_of.lines)
    data = {"text/plain": action.text}
    if action.stream == STDERR and action.text:
        # JupyterLab and VS Code prefer this type and show it as they show stderr. (An erased bar would be a red line.)
        data["application/vnd.jupyter.stderr"] = action.text
    _publish(action.display_id, data, update=not isinstance(action, ShowText))


def _write(stream: str, text: str) -> None:
    if text:
        record = current_record()
        if record is not None:
            record.write(stream, text)
        _send_text(stream, text)


def _send_text(stream: str, text: str) -> None:
    """One message in a kernel: its stream would else wait 0.2 s and join what comes by then."""
    file: TextIO = sys.stderr if stream == STDERR else sys.stdout
    file.write(text)
    file.flush()


def _publish(display_id: str, data: dict[str, str], *, update: bool) -> None:
    record = current_record()
    if update:
        update_records(display_id, data)
    elif record is not None:
        record.show(display_id, data)
    _send_display(display_id, data, update=update)


def _send_display(display_id: str, data: Mapping[str, str], *, update: bool) -> None:
    # The function has no annotations.
    publish: Callable[..., None] = publish_display_data
    publish(data, {}, transient={"display_id": display_id}, update=update)


def _display_id() -> str:
    return f"skyrl-{uuid.uuid4().hex[:12]}"
