"""Lesson 3, executed with its kernel restarted and Stop pressed: each cell shows what the text before it promises."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.notebooks.conftest import Executed

LESSON = "03_long_runs.ipynb"
#: The training prints the metrics of each so many steps.
LOGGED = 20
_STEP = re.compile(r"^Step (\d+): $", re.MULTILINE)


def steps(text: str) -> list[int]:
    return [int(number) for number in _STEP.findall(text)]


def long_run(executed: Executed) -> str:
    """The id of the run in the background."""
    match = re.search(r"^run (\w{6}) in session \S+: running", executed.text("train"), re.MULTILINE)
    assert match
    return match[1]


def test_every_cell_ran_and_only_those_that_were_stopped_failed(executed: Executed) -> None:
    assert executed.failure is None
    code = [cell for cell in executed.notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    failed = [cell.id for cell in code if any(output.output_type == "error" for output in cell.outputs)]
    assert failed == ["attach", "again"]


def test_the_run_goes_on_beside_other_cells(executed: Executed) -> None:
    assert "global_step_20" in executed.text("beside")
    assert executed.text("handle").startswith("False\n")
    assert steps(executed.text("handle"))


def test_the_kernel_was_restarted_and_finds_the_session(executed: Executed) -> None:
    """No session is the current one of a new kernel: its row has no ``*``."""
    assert re.search(r"^none-\w+ +local +none +1 run", executed.text("back"), re.MULTILINE)


def test_attached_it_shows_every_line_from_the_start_and_then_goes_on_at_the_byte(executed: Executed) -> None:
    first, second = steps(executed.text("attach")), steps(executed.text("again"))
    assert executed.text("attach").startswith("started from nothing")
    assert [*first, *second] == list(range(LOGGED, LOGGED * (len(first) + len(second)) + 1, LOGGED))
    assert first
    assert second
    for cell_id in ("attach", "again"):
        assert f"run {long_run(executed)} goes on: %skyrl_attach" in executed.text(cell_id)


def test_it_is_stopped_and_the_table_says_so(executed: Executed) -> None:
    run_id = long_run(executed)
    assert f"run {run_id} is stopped" in executed.text("cancel")
    (row,) = [line for line in executed.text("runs").splitlines() if run_id in line]
    assert "stopped" in row
    assert "pretend_training.py" in row


def test_it_resumes_from_a_complete_checkpoint(executed: Executed) -> None:
    match = re.match(r"resumed from global_step_(\d+) .*\nsaved global_step_(\d+)\n", executed.text("resumed"))
    assert match
    begin, end = map(int, match.groups())
    assert begin % 20 == 0
    assert end == begin + 40
    assert not steps(executed.text("resume")), "its output went into a variable"


def test_its_log_is_there_when_the_session_is_not(executed: Executed) -> None:
    assert "is stopped" in executed.text("stop")
    resumed = executed.text("resumed").splitlines()[-1]
    assert resumed in executed.text("logs").splitlines()
