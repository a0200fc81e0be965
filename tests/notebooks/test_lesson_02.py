"""Lesson 2, executed in a real kernel: each cell shows what the text before it promises."""

from __future__ import annotations

import ast
import base64
import re
from typing import TYPE_CHECKING

import nbformat
import pytest

from demo import lesson, places

if TYPE_CHECKING:
    from tests.notebooks.conftest import Executed

LESSON = "02_python_on_the_cluster.ipynb"
pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def tables(executed: Executed, cell_id: str) -> list[str]:
    """The HTML of the cell's tables."""
    outputs = executed.cell(cell_id).outputs
    return [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]


def test_every_cell_ran_and_only_the_failing_one_failed(executed: Executed) -> None:
    assert executed.failure is None
    code = [cell for cell in executed.notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    failed = [cell.id for cell in code if any(output.output_type == "error" for output in cell.outputs)]
    assert failed == ["error"]


def test_the_cluster_is_joined_with_one_line_and_shown_as_a_value(executed: Executed) -> None:
    text = executed.text("cluster")
    assert len(re.findall(r"^Ray: joining the cluster at .*$", text, re.MULTILINE)) == 1
    assert "INFO worker.py" not in text
    (result,) = [o for o in executed.cell("cluster").outputs if o.output_type == "execute_result"]
    resources = ast.literal_eval(result.data["text/plain"])
    assert resources["CPU"] >= 1
    assert result.execution_count == executed.cell("cluster").execution_count


def test_the_nodes_are_a_table_with_one_row(executed: Executed) -> None:
    (table,) = tables(executed, "nodes")
    assert table.count("<td>True</td>") == 1


def test_a_right_answer_earns_the_reward(executed: Executed) -> None:
    assert "'reward': 1.0" in executed.text("gym")


def test_both_environments_tell_right_from_wrong(executed: Executed) -> None:
    lines = [line.split() for line in executed.text("rewards").splitlines()]
    rewards = {" ".join(words[1:-2]): tuple(map(float, words[-2:])) for words in lines[1:] if words}
    assert rewards == {
        "#### 42": (1.0, -1.0),
        "#### 43": (0.0, -1.0),
        "Answer: 42": (0.0, 1.0),
        r"Answer: \boxed{42}": (0.0, 1.0),
        "Answer: 43": (0.0, -1.0),
        "I do not know": (0.0, -1.0),
    }
    assert len(tables(executed, "rewards")) == 1


def test_an_error_has_the_traceback_from_there(executed: Executed) -> None:
    (error,) = [output for output in executed.cell("error").outputs if output.output_type == "error"]
    text = executed.text("error")
    assert error.ename == "AssertionError"
    assert "reward_spec field is required" in error.evalue
    assert "SkyRL/skyrl-gym/skyrl_gym/envs/gsm8k/env.py" in text
    assert 'assert "reward_spec" in extras' in text


def test_what_a_shell_cell_wrote_a_python_cell_reads(executed: Executed) -> None:
    assert "/root/data/gsm8k/validation.parquet: 500 problems" in executed.text("dataset")
    assert "How many" in executed.text("answers")


def test_what_tasks_print_is_under_their_cell(executed: Executed) -> None:
    text = executed.text("tasks")
    for number in range(4):
        assert re.search(rf"\(hello pid=\d+\) task {number} has skyrl_gym\n", text)
    assert "[0, 1, 4, 9]" in text


def test_the_bar_is_redrawn_in_place_and_the_rewards_are_right(executed: Executed) -> None:
    text = executed.text("score")
    assert text.count("scoring: ") == 1
    assert re.search(r"scoring: 100%\|█+\| 400/400 ", text)
    means = dict(re.findall(r"^(no ####|right|wrong) +\d+ +([\d.]+)$", text, re.MULTILINE))
    assert means == {"no ####": "0.0", "right": "1.0", "wrong": "0.0"}


def test_the_plot_is_a_picture(executed: Executed) -> None:
    data = [output.data for output in executed.cell("plot").outputs if "data" in output]
    (picture,) = [pictures["image/png"] for pictures in data if "image/png" in pictures]
    assert base64.b64decode(picture).startswith(b"\x89PNG")


def test_the_table_came_into_the_notebook(executed: Executed) -> None:
    assert "400 rows leave for the notebook" in executed.text("bring")
    (table,) = tables(executed, "here")
    assert table.count("<tr>") == 3
    assert executed.text("kept").strip() == "400"


def test_help_is_shown_below_its_cell(executed: Executed) -> None:
    text = executed.text("inspect")
    assert text.startswith("Signature:")
    assert "skyrl_gym/envs/registration.py" in text


def test_a_new_kernel_has_no_variables(executed: Executed) -> None:
    assert executed.text("fresh").strip() == "False"


def test_the_session_is_stopped(executed: Executed) -> None:
    assert re.search(r"session \S+ is stopped", executed.text("stop"))


def test_page_loads_nothing_from_the_network(executed: Executed) -> None:
    page = lesson.render(executed.notebook, "02_python_on_the_cluster")
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"https?://", page)
    assert "data:image/png;base64" in page


def test_the_committed_lesson_has_no_outputs() -> None:
    notebook = nbformat.read(places.ROOT / "notebooks" / LESSON, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
