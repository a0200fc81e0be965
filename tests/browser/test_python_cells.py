"""Python cells in JupyterLab: widgets that live in the session's kernel, completion and help from there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import TimeoutError, expect  # noqa: A004

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import NotebookPage

pytestmark = pytest.mark.browser
#: Bound on anything that a session answers, in milliseconds; the machine may be busy.
ANSWER_MS = 60_000
KEY_PRESSES, KEY_MS = 30, 2000
PYTHON = "%%skyrl_python --repo none --gpu none --no-ray\n"
WIDGETS = """\
import ipywidgets as widgets

seen = widgets.Label("untouched")
button = widgets.Button(description="press me")
slider = widgets.IntSlider(description="steps", value=3)

def pressed(_):
    seen.value = f"pressed at {slider.value}"
    print("the callback ran")

button.on_click(pressed)
widgets.VBox([slider, button, seen])"""
INTERACT = """\
import ipywidgets as widgets

def double(number=4):
    print(f"twice {number} is {2 * number}")

widgets.interact(double, number=(0, 50));"""
BAR = """\
from tqdm.notebook import tqdm

for _ in tqdm(range(200), desc="scoring"):
    pass"""


def test_remote_widgets_can_be_used(open_notebook: Callable[..., NotebookPage]) -> None:
    notebook = open_notebook(PYTHON + WIDGETS, PYTHON + "slider.value, seen.value")
    notebook.run_all()
    shown = notebook.page.locator(notebook.outputs(0))
    expect(shown).to_contain_text("untouched", timeout=ANSWER_MS)
    expect(notebook.page.locator(notebook.outputs(1))).to_contain_text("(3, 'untouched')", timeout=ANSWER_MS)
    handle = shown.get_by_role("slider")
    handle.focus()
    handle.press("ArrowRight")
    shown.get_by_role("button", name="press me").click()
    # The press went to the session's kernel, and its answer came back.
    expect(shown).to_contain_text("pressed at 4", timeout=ANSWER_MS)
    notebook.run_all()
    expect(notebook.page.locator(notebook.outputs(1))).to_contain_text("(3, 'untouched')", timeout=ANSWER_MS)


LOCAL = """\
import ipywidgets
mine = ipywidgets.IntSlider(description="mine", value=8)
mine"""


@pytest.mark.parametrize("own", [LOCAL, "1 + 1"], ids=["beside local widgets", "alone"])
def test_widgets_are_there_after_a_reload(open_notebook: Callable[..., NotebookPage], own: str) -> None:
    closed = "gone = widgets.Label('gone'); gone.close()"
    notebook = open_notebook(own, PYTHON + WIDGETS, PYTHON + closed, PYTHON + "slider.value, seen.value")
    notebook.run_all()
    shown = notebook.page.locator(notebook.outputs(1))
    expect(shown).to_contain_text("untouched", timeout=ANSWER_MS)
    expect(notebook.page.locator(notebook.outputs(3))).to_contain_text("(3, 'untouched')", timeout=ANSWER_MS)
    handle = shown.get_by_role("slider")
    handle.focus()
    handle.press("ArrowRight")
    shown.get_by_role("button", name="press me").click()
    expect(shown).to_contain_text("pressed at 4", timeout=ANSWER_MS)
    notebook.save_and_reload()
    expect(shown).to_contain_text("pressed at 4", timeout=ANSWER_MS)
    handle.focus()
    handle.press("ArrowRight")
    shown.get_by_role("button", name="press me").click()
    expect(shown).to_contain_text("pressed at 5", timeout=ANSWER_MS)
    if own == LOCAL:
        mine = notebook.page.locator(notebook.outputs(0)).get_by_role("slider")
        expect(mine).to_have_attribute("aria-valuenow", "8.0", timeout=ANSWER_MS)


def test_interact_and_a_bar(open_notebook: Callable[..., NotebookPage]) -> None:
    notebook = open_notebook(PYTHON + INTERACT, PYTHON + BAR)
    notebook.run_all()
    shown = notebook.page.locator(notebook.outputs(0))
    expect(shown).to_contain_text("twice 4 is 8", timeout=ANSWER_MS)
    handle = shown.get_by_role("slider")
    handle.focus()
    handle.press("ArrowRight")
    expect(shown).to_contain_text("twice 5 is 10", timeout=ANSWER_MS)
    expect(shown).not_to_contain_text("twice 4 is 8")
    bar = notebook.page.locator(notebook.outputs(1))
    expect(bar).to_contain_text("scoring", timeout=ANSWER_MS)
    expect(bar).to_contain_text("200/200", timeout=ANSWER_MS)


def test_tab_completes_what_only_the_session_knows(open_notebook: Callable[..., NotebookPage]) -> None:
    notebook = open_notebook(PYTHON + "a_name_of_the_session = [1]", PYTHON + "a_name_of_the_sess")
    notebook.run_all()
    expect(notebook.page.locator(notebook.outputs(1))).to_contain_text("NameError", timeout=ANSWER_MS)
    editor = notebook.page.locator(".jp-Notebook .jp-Cell .jp-InputArea-editor .cm-content").nth(1)
    completer = notebook.page.locator(".jp-Completer", has_text="a_name_of_the_session")
    # On a busy machine an answer may come too late for a key press.
    for _ in range(KEY_PRESSES):
        editor.click()
        notebook.page.keyboard.press("Control+End")
        notebook.page.keyboard.press("Tab")
        try:
            completer.wait_for(timeout=KEY_MS)
        except TimeoutError:
            notebook.page.keyboard.press("Escape")
        else:
            return
    pytest.fail("no completion")
