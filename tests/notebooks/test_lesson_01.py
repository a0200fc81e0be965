"""Lesson 1, executed in a real kernel: each cell shows what the text before it promises."""

from __future__ import annotations

import ast
import re
import shutil
from typing import TYPE_CHECKING

import nbformat
import pytest

from demo import lesson, places

if TYPE_CHECKING:
    from tests.notebooks.conftest import Executed

LESSON = "01_first_cell.ipynb"
pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_every_cell_ran_and_only_the_failing_one_failed(executed: Executed) -> None:
    assert executed.failure is None
    code = [cell for cell in executed.notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    failed = [cell.id for cell in code if any(output.output_type == "error" for output in cell.outputs)]
    assert failed == ["fail"]


def test_loading_the_extension_shows_nothing(executed: Executed) -> None:
    assert executed.cell("load").outputs == []


def test_gpu_cell_lists_the_gpu_or_says_that_there_is_none(executed: Executed) -> None:
    text = executed.text("gpu")
    if shutil.which("nvidia-smi"):
        assert "NVIDIA-SMI" in text
    else:
        assert "no GPU here: the rest of the lesson needs none" in text
        assert re.search(r"GPU|L4", text)


def test_the_first_cell_says_how_long_the_session_took(executed: Executed) -> None:
    assert re.search(r"Ray\D{0,20}\d", executed.text("gpu"))


def test_where_shows_the_working_directory_and_the_checkout(executed: Executed) -> None:
    lines = executed.text("where").split()
    assert lines[0] == "/root/SkyRL"
    assert {"examples", "pyproject.toml", "skyrl-gym"} <= set(lines)
    assert "checkout: /root/SkyRL, data: /root/data" in executed.text("where")


def test_dataset_cell_names_both_files(executed: Executed) -> None:
    text = executed.text("dataset")
    assert "/root/data/multiply/train.parquet: 1000 problems" in text
    assert "/root/data/multiply/validation.parquet: 200 problems" in text


def test_the_next_cell_sees_the_dataset(executed: Executed) -> None:
    text = executed.text("look")
    assert "train.parquet" in text
    assert "validation.parquet" in text
    question = re.search(r"(\d+)\D+(\d+).* -> (\d+)", text.splitlines()[-1])
    assert question is not None
    assert int(question[1]) * int(question[2]) == int(question[3])


def test_scoring_ends_with_the_metrics_and_one_bar_for_each_pass(executed: Executed) -> None:
    text = executed.text("workdir")
    metrics = ast.literal_eval(text[text.index("{") : text.index("}") + 1])
    assert metrics["eval/right/avg_score"] == "1.0000"
    assert metrics["eval/wrong/avg_score"] == "0.0000"
    assert text.count("pass ") == 4
    # Redrawn in place: the last state is what the notebook keeps.
    assert text.count("10000/10000") == 4
    assert "200/10000" not in text


def test_colours_are_kept(executed: Executed) -> None:
    assert "\x1b[1m500 problems\x1b[0m" in executed.colored("workdir")


def test_gyms_own_tests_pass(executed: Executed) -> None:
    assert "13 passed" in executed.text("tests")


def test_ray_status_lists_one_node(executed: Executed) -> None:
    active = executed.text("ray-status").partition("Active:")[2].partition("Pending:")[0]
    assert active.count("node_") == 1


def test_ray_job_prints_four_results(executed: Executed) -> None:
    text = executed.text("ray-job")
    assert len(re.findall(r"chunk \d done: 500 problems, mean reward 1\.00", text)) == 4
    assert "2000 problems scored by" in text


def test_an_edited_file_runs_in_the_session(executed: Executed) -> None:
    assert re.search(r"hello newcomer, from /root/SkyRL", executed.text("edited"))


def test_output_goes_into_a_variable(executed: Executed) -> None:
    assert "/root/data" not in executed.text("out")
    assert re.search(r"/root/data/gsm8k +\d", executed.text("out-used"))
    assert re.search(r"/root/data/multiply +\d", executed.text("out-used"))


def test_a_failed_cell_stops_there_and_raises_one_line(executed: Executed) -> None:
    text = executed.text("fail")
    assert "this line is printed" in text
    assert "nothing-here" in text
    assert "this line is not" not in text
    (error,) = [output for output in executed.cell("fail").outputs if output.output_type == "error"]
    assert error.ename == "RunFailed"
    assert "2" in error.evalue
    assert len("\n".join(error.traceback).splitlines()) == 1


def test_logs_show_the_failed_run_again(executed: Executed) -> None:
    text = executed.text("logs")
    assert "this line is printed" in text
    assert "nothing-here" in text


def test_dry_run_shows_the_spec_and_starts_nothing(executed: Executed) -> None:
    text = executed.text("dry")
    assert "A100:2" in text
    assert "7200" in text or "2h" in text
    assert "A100" not in executed.text("sessions")


def test_second_session_sees_the_volume_and_names_the_first(executed: Executed) -> None:
    text = executed.text("second")
    assert "train.parquet" in text
    first = re.search(r"\bl4-\w+", text)
    assert first is not None


def test_sessions_lists_both(executed: Executed) -> None:
    text = executed.text("sessions")
    assert re.search(r"\bl4-\w+", text)
    assert "small" in text


def test_picker_shows_widgets_and_its_line(executed: Executed) -> None:
    mimes = {mime for output in executed.cell("picker").outputs for mime in output.get("data", {})}
    assert "application/vnd.jupyter.widget-view+json" in mimes
    assert "%%skyrl_modal" in str(executed.notebook.metadata["widgets"])


def test_after_the_stop_no_session_is_left(executed: Executed) -> None:
    assert "small" in executed.text("stop")
    assert "small" not in executed.text("end")
    assert not re.search(r"\bl4-\w+", executed.text("end"))


def test_page_loads_nothing_from_the_network_and_keeps_colours(executed: Executed) -> None:
    page = lesson.render(executed.notebook, "01_first_cell")
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"https?://", page)
    assert "500 problems" in page
    assert "ansi-bold" in page


def test_the_committed_lesson_has_no_outputs() -> None:
    notebook = nbformat.read(places.ROOT / "notebooks" / LESSON, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert "widgets" not in notebook.metadata
