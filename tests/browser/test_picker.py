"""The picker and the interrupt button in JupyterLab and in Notebook 7."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import LAB, NOTEBOOK_7

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Locator

    from tests.browser.conftest import NotebookPage

pytestmark = pytest.mark.browser
both_front_ends = pytest.mark.parametrize("app", [LAB, NOTEBOOK_7])
#: Bound on anything that a kernel or a session answers, in milliseconds; the machine may be busy.
ANSWER_MS = 60_000
DRY_RUN = "%skyrl_modal --dry-run nvidia-smi"


def open_picker(notebook: NotebookPage) -> Locator:
    """Run the first cell and wait for its widgets."""
    run_cell(notebook, 0)
    picker = notebook.page.locator(notebook.outputs(0))
    expect(picker).to_contain_text("%%skyrl_modal", timeout=ANSWER_MS)
    return picker


def run_cell(notebook: NotebookPage, index: int) -> None:
    """Run one cell, as a click in it and the keys do."""
    notebook.page.locator(".jp-Notebook .jp-Cell .jp-InputArea-editor .cm-content").nth(index).click()
    notebook.page.keyboard.press("Control+Enter")


@both_front_ends
def test_use_sets_the_defaults_of_the_next_cell(open_notebook: Callable[..., NotebookPage], app: str) -> None:
    notebook = open_notebook("%skyrl_picker", DRY_RUN, app=app)
    picker = open_picker(notebook)
    picker.get_by_label("GPU", exact=True).select_option("A100")
    picker.get_by_label("GPU count").fill("2")
    picker.get_by_label("GPU count").press("Tab")
    expect(picker.locator("code")).to_have_text("%%skyrl_modal --gpu A100:2", timeout=ANSWER_MS)
    picker.get_by_role("button", name="Use").click()
    expect(picker.get_by_role("status")).to_contain_text("defaults", timeout=ANSWER_MS)
    run_cell(notebook, 1)
    expect(notebook.page.locator(notebook.outputs(1))).to_contain_text("A100:2", timeout=ANSWER_MS)
    # What is wrong is said, as text, and can be neither used nor started.
    picker.get_by_label("Volume").fill("a <b>bold</b> name")
    expect(picker.get_by_role("alert")).to_contain_text("--volume a <b>bold</b> name: a name is", timeout=ANSWER_MS)
    for name in ("Use", "Start"):
        expect(picker.get_by_role("button", name=name)).to_be_disabled()


@both_front_ends
def test_it_works_with_the_keyboard_alone(open_notebook: Callable[..., NotebookPage], app: str) -> None:
    notebook = open_notebook("%skyrl_picker", app=app)
    picker, keys = open_picker(notebook), notebook.page.keyboard
    picker.get_by_label("GPU", exact=True).focus()
    # Arrow keys would move between cells: in command mode the notebook takes them from a list that is not open.
    keys.press("h")
    keys.press("Tab")
    keys.press("ArrowUp")
    for _ in range(5):  # over the timeouts, the volume and the session to Ray
        keys.press("Tab")
    keys.press("Space")
    expect(picker.locator("code")).to_have_text("%%skyrl_modal --gpu H100:2 --no-ray", timeout=ANSWER_MS)
    keys.press("Tab")
    expect(picker.get_by_role("button", name="Use")).to_be_focused()
    keys.press("Space")
    expect(picker.get_by_role("status")).to_contain_text("defaults", timeout=ANSWER_MS)


def test_start_starts_the_session_and_shows_how_far_it_is(open_notebook: Callable[..., NotebookPage]) -> None:
    notebook = open_notebook("%skyrl_picker", "%%skyrl_modal\necho in $((40 + 2))", "%skyrl_stop", app=NOTEBOOK_7)
    picker = open_picker(notebook)
    picker.get_by_label("GPU", exact=True).select_option("none")
    picker.get_by_label("Start Ray").uncheck()
    expect(picker.locator("code")).to_have_text("%%skyrl_modal --gpu none --no-ray", timeout=ANSWER_MS)
    picker.get_by_role("button", name="Start").click()
    status = picker.get_by_role("status")
    expect(status).to_contain_text("session none-", timeout=ANSWER_MS)
    expect(status).not_to_contain_text("…")  # the phases' line is updated in place, not left at its first text
    expect(picker.get_by_role("button", name="Start")).to_be_enabled(timeout=ANSWER_MS)
    run_cell(notebook, 1)
    expect(notebook.page.locator(notebook.outputs(1))).to_contain_text("in 42", timeout=ANSWER_MS)
    run_cell(notebook, 2)
    expect(notebook.page.locator(notebook.outputs(2))).to_contain_text("is stopped", timeout=ANSWER_MS)


def test_interrupt_stops_the_run_and_run_all_in_notebook_7(open_notebook: Callable[..., NotebookPage]) -> None:
    cell = "%%skyrl_modal --repo none --gpu none --no-ray\necho it $((1 + 1)) runs\nsleep 300\n"
    notebook = open_notebook(cell, "print('after', 'it')", app=NOTEBOOK_7)
    page = notebook.page
    notebook.run_all()
    shown = page.locator(notebook.outputs(0))
    expect(shown).to_contain_text("it 2 runs", timeout=ANSWER_MS)
    page.locator('.jp-Toolbar [data-jp-item-name="interrupt"] jp-button').click()
    expect(shown).to_contain_text("RunStopped", timeout=ANSWER_MS)
    expect(page.locator(".jp-Notebook .jp-InputPrompt").first).not_to_have_text("[*]:", timeout=ANSWER_MS)
    expect(page.locator(".jp-Notebook")).not_to_contain_text("after it")
