"""How a cell ends: what it leaves, the error that it raises, and the last lines that it shows."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import Any

from IPython.utils.text import SList

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import (
    CellError,
    KernelDied,
    RunFailed,
    RunStopped,
    SessionLost,
    SessionUnreachable,
    SkyRLMagicError,
)
from skyrl_magic.core.protocol.durations import duration_text
from skyrl_magic.core.spec import RunRequest
from skyrl_magic.service.python_cell import PythonEnd
from skyrl_magic.service.runs import RunResult
from skyrl_magic.service.session import Session
from skyrl_magic.ui.cell_sink import CellSink
from skyrl_magic.ui.front_end import write_payload
from skyrl_magic.ui.variables import Variables

#: bash's exit code for a command that signal n ended is 128 + n.
_SIGNAL_BASE = 128


@dataclass
class Outcome:
    """What a cell leaves: variables, captured or brought back, and the error that it ends with."""

    variables: dict[str, Any] = field(default_factory=dict)
    value: Any = None
    """What a line magic returns."""
    error: SkyRLMagicError | None = None
    result: RunResult | None = field(default=None, compare=False)
    """How the run ended; None where the cell did not see that."""


def outcome_of(request: RunRequest, result: RunResult, sink: CellSink) -> Outcome:
    """How the cell of a run ends, with what it still has to show."""
    outcome = Outcome(captured(request, result), value=_lines(request, result), error=error_of(result))
    final = None
    if request.raise_error and isinstance(outcome.error, CellError) and not outcome.error.shown:
        sink.error_follows()
    if result.reason and result.python is not None and result.python.failed != "KeyboardInterrupt":
        _shown_only(result.python, sink)  # it ended with its session or kernel, and what it did then went wrong
    _note_end(result, sink)
    if not request.raise_error and isinstance(outcome.error, CellError) and result.python is not None:
        _shown_only(result.python, sink)
        outcome.error = None
    elif not request.raise_error and isinstance(outcome.error, RunFailed):
        final, outcome.error = str(outcome.error), None
    sink.close(final)
    return outcome


def captured(request: RunRequest, result: RunResult) -> dict[str, Any]:
    """The streams that the request names variables for, as text."""
    names = {protocol.STDOUT: request.out, protocol.STDERR: request.err}
    return {
        name: result.captured[stream].decode("utf-8", "replace") for stream, name in names.items() if name is not None
    }


def _lines(request: RunRequest, result: RunResult) -> SList | None:
    """What ``x = %skyrl_modal command`` assigns: stdout, as ``x = !command`` has it."""
    if not request.value:
        return None
    return SList(result.captured[protocol.STDOUT].decode("utf-8", "replace").splitlines())


def error_of(result: RunResult) -> SkyRLMagicError | None:
    """What a run's end raises; None where it ended well."""
    if result.stopped and (result.python is None or _was_waiting(result, result.python)):
        took = duration_text(result.duration_s)
        text = f"run {result.run_id} was stopped by {result.stopped} after {took}; "
        return RunStopped(text + f"%skyrl_logs {result.run_id} shows its output")
    if result.pressed_late:
        return stopped_late(result)
    return _shell_error(result) if result.python is None else _python_error(result, result.python)


def _shell_error(result: RunResult) -> SkyRLMagicError | None:
    run_id, took = result.run_id, duration_text(result.duration_s)
    if result.reason:
        return SessionLost(f"run {run_id} ended after {took}: {result.reason}")
    if result.exit_code:
        text = f"run {run_id} failed: exit code {_exit_text(result.exit_code)} after {took}; "
        return RunFailed(text + f"%skyrl_logs {run_id} shows its output", result.exit_code, run_id)
    return None


def stopped_late(result: RunResult) -> RunStopped:
    """Stop came when the run had ended: nothing was stopped, and Run All ends all the same."""
    return RunStopped(f"run {result.run_id} had ended by itself, with exit code {result.exit_code}, before Stop came")


def _was_waiting(result: RunResult, end: PythonEnd) -> bool:
    """Whether Stop took a Python cell back that waited behind another notebook's."""
    return end.well and result.exit_code == _SIGNAL_BASE + signal.SIGINT


def bring(variables: Variables, session: Session, outcome: Outcome, sink: CellSink) -> None:
    """Add what a Python cell brings back, or why it cannot."""
    try:
        outcome.variables |= variables.bring(session)
        if isinstance(sink.value_count, int):
            outcome.value = variables.bring_value(session, sink.value_count)
    except SkyRLMagicError as error:
        outcome.error = error


def _note_end(result: RunResult, sink: CellSink) -> None:
    if result.archive_error:
        sink.note(f"{result.archive_error}; while the container lives, %skyrl_logs {result.run_id} has all of it")
    if result.journal_error:
        sink.note(f"{result.journal_error}; remove what fills the container's disk (du -x /tmp), or %skyrl_stop")
    if result.python is not None:
        write_payload(result.python.payload)
        if result.python.exits:
            sink.note(
                "exit() ends the session's Python kernel, not this notebook's: its variables are gone, the session "
                "goes on and the next Python cell starts a new kernel"
            )


def _python_error(result: RunResult, end: PythonEnd) -> SkyRLMagicError | None:
    run_id = result.run_id
    if result.reason and result.exit_code > _SIGNAL_BASE:
        return SessionLost(f"run {run_id} ended after {duration_text(result.duration_s)}: {result.reason}")
    if result.reason:
        return _without_kernel(result)
    if end.well:
        return _shell_error(result)
    if end.error is not None:
        content = end.error.content
        lines = [str(line) for line in content.get("traceback") or ()]
        return CellError.named(str(content.get("ename", "")), str(content.get("evalue", "")), lines, run_id)
    if end.failed and not end.died:
        error = CellError.named(end.failed, f"the cell failed, as its output says; run {run_id}", (), run_id)
        error.shown = True
        return error
    cause = "Stop ended it" if result.stopped == signal.SIGKILL.name else end.died
    return KernelDied(
        f"the Python kernel ended in run {run_id}: {cause}; its variables are gone, the session goes on "
        "and the next Python cell starts a new kernel"
    )


def _without_kernel(result: RunResult) -> KernelDied:
    text = f"run {result.run_id} ended after {duration_text(result.duration_s)} with its Python kernel: {result.reason}"
    return KernelDied(f"{text}; the variables are gone, the session goes on and the next Python cell has a new kernel")


def _shown_only(end: PythonEnd, sink: CellSink) -> None:
    """The error is an output like any other: nothing is raised."""
    if end.error is not None:
        sink.message(end.error)


def lost_with_run(error: SkyRLMagicError, run_id: str) -> SkyRLMagicError:
    """What a user hears of a run whose container ended under it."""
    if not isinstance(error, SessionLost) or isinstance(error, SessionUnreachable):
        return error
    text = f"run {run_id} ended with its session: {error}; %skyrl_logs {run_id} shows what of its output reached the "
    text += "volume and which bytes may be missing; "
    return SessionLost(text + "the next cell starts a new one, with the volume as it was last committed")


def _exit_text(code: int) -> str:
    """``3``, or ``137 (SIGKILL)`` where a signal ended it."""
    try:
        return f"{code} ({signal.Signals(code - _SIGNAL_BASE).name})" if code > _SIGNAL_BASE else str(code)
    except ValueError:
        return str(code)
