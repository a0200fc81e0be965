"""The log of a Python run: what it showed, again."""

from __future__ import annotations

import re
from pathlib import Path

from tests.kernel.conftest import Kernel
from tests.kernel.python_cells.saved import SavedNotebook

SHOWS = """%%skyrl_python
print('text')
handle = display('first', display_id=True)
handle.update('second')
import sys; print('err', file=sys.stderr)
display({'text/html': '<b>h</b>', 'text/plain': 'h'}, raw=True)
1 + 1
"""


def test_a_python_run_is_shown_again(kernel: Kernel) -> None:
    kernel.run("%skyrl_start")
    notebook = SavedNotebook()
    first = notebook.add("", kernel.run(SHOWS))
    again = notebook.add("", kernel.run("%skyrl_logs"))
    assert [output["output_type"] for output in first].count("display_data") >= 2
    for outputs in (first, again):
        for output in outputs:
            output.pop("execution_count", None)
    assert again == first


def test_a_replay_does_not_change_the_runs_own_cell(kernel: Kernel) -> None:
    notebook = SavedNotebook()
    first = notebook.add("", kernel.run("%%skyrl_python\nh = display('of then', display_id='named')"))
    run = kernel.run("%%skyrl_python\nh.update('of now')")
    notebook.add("", run)
    notebook.add("", kernel.run("%skyrl_logs"))
    assert first[0]["data"]["text/plain"] == "'of now'"
    runs = "print(*get_ipython().magics_manager.registry['SkyRLMagic'].cells.notebook.runs)"
    earlier = kernel.run(runs).out.split()[-2]
    replay = notebook.add("", kernel.run(f"%skyrl_logs {earlier}"))
    assert replay[0]["data"]["text/plain"] == "'of then'"
    assert first[0]["data"]["text/plain"] == "'of now'"


def test_an_error_and_a_question_are_shown_and_not_asked(kernel: Kernel) -> None:
    kernel.answers = ["ada"]
    failed = kernel.run("%%skyrl_python\nname = input('Name? ')\n1 / 0")
    assert failed.status == "error"
    kernel.asked.clear()
    again = kernel.run("%skyrl_logs")
    assert (again.status, kernel.asked) == ("ok", [])
    # A log has the session's numbers of cells, a cell its notebook's.
    plain = [[re.sub(r"In\[\d+\]", "In[n]", line) for line in cell.error] for cell in (again, failed)]
    assert plain[0] == plain[1]


def test_widgets_are_not_made_twice(kernel: Kernel) -> None:
    cell = kernel.run("%%skyrl_python\nimport ipywidgets\nipywidgets.IntSlider()")
    assert any(message["msg_type"] == "comm_open" for message in cell.messages)
    again = kernel.run("%skyrl_logs")
    assert not any(message["msg_type"].startswith("comm_") for message in again.messages)
    assert "IntSlider" in again.result


def test_saved_as_text(kernel: Kernel, tmp_path: Path) -> None:
    kernel.run(SHOWS)
    saved = tmp_path / "log"
    kernel.run(f"%skyrl_logs --save {saved}")
    text = saved.read_text()
    assert "\x1b" not in text
    assert text.split() == ["text", "'first'", "'second'", "err", "h", "2"]
