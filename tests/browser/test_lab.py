"""Cells in JupyterLab, seen by a person's eyes: live output, a bar in place, Stop, the picker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import NotebookPage

pytestmark = pytest.mark.browser
#: A session without a GPU and Ray starts in a second or two; the machine may be busy.
SESSION_MS = 60_000
QUICK = "%%skyrl_modal --repo none --gpu none --no-ray\n"


def test_output_is_seen_while_the_cell_runs_and_stop_ends_it(open_notebook: Callable[..., NotebookPage]) -> None:
    notebook = open_notebook(QUICK + "printf 'first line\\nhalf a '\nsleep 600\necho never", "print('after', 'it')")
    notebook.run_all()
    page, shown = notebook.page, notebook.page.locator(notebook.outputs(0))
    expect(shown).to_contain_text("first line\nhalf a", timeout=SESSION_MS, use_inner_text=True)
    expect(page.locator(".jp-Notebook .jp-InputPrompt").first).to_have_text("[*]:")
    page.locator('.jp-Toolbar [data-jp-item-name="interrupt"] jp-button').click()
    expect(shown).to_contain_text("RunStopped", timeout=SESSION_MS)
    expect(page.locator(".jp-Notebook .jp-InputPrompt").first).not_to_have_text("[*]:", timeout=SESSION_MS)
    expect(shown).not_to_contain_text("never")
    # Run All ends at a stopped cell.
    expect(page.locator(".jp-Notebook")).not_to_contain_text("after it")


def test_a_bar_is_redrawn_in_place_and_colours_are_shown(open_notebook: Callable[..., NotebookPage]) -> None:
    bar = "for i in $(seq 1 300); do printf '\\rstep %d/300' $i >&2; done; echo >&2\n"
    notebook = open_notebook(QUICK + bar + "printf '\\033[32mgreen\\033[0m text\\n'")
    notebook.run_all()
    shown = notebook.page.locator(notebook.outputs(0))
    expect(shown).to_contain_text("green text", timeout=SESSION_MS)
    expect(shown).to_contain_text("step 300/300")
    expect(shown).not_to_contain_text("step 299/300")
    expect(shown.locator(".ansi-green-fg").first).to_have_text("green")


def test_the_picker_shows_the_line_that_does_the_same(open_notebook: Callable[..., NotebookPage]) -> None:
    notebook = open_notebook("%skyrl_picker", "%load_ext skyrl_magic\n1 + 1")
    notebook.run_all()
    shown = notebook.page.locator(notebook.outputs(0))
    expect(shown).to_contain_text("%%skyrl_modal", timeout=SESSION_MS)
    shown.locator(".widget-dropdown select").first.select_option("H100")
    expect(shown).to_contain_text("--gpu H100", timeout=SESSION_MS)
    # The extension is there from the start, and a notebook that loads it all the same is told nothing about that.
    expect(notebook.page.locator(notebook.outputs(1))).to_have_text("[2]:2")


def test_dollar_signs_of_a_command_are_no_mathematics(open_notebook: Callable[..., NotebookPage]) -> None:
    notebook = open_notebook(QUICK + "for i in $(seq 1 3); do echo $i; done", "%skyrl_runs")
    notebook.run_all()
    shown = notebook.page.locator(notebook.outputs(1))
    expect(shown.locator("td", has_text="for i in $(seq 1 3); do echo $i; done")).to_be_visible(timeout=SESSION_MS)
    notebook.page.wait_for_function("document.querySelector('.jp-RenderedHTMLCommon td') !== null")
    expect(shown.locator("mjx-container, .MathJax")).to_have_count(0)


def test_a_run_whose_page_was_closed_is_shown_again_from_its_start(open_notebook: Callable[..., NotebookPage]) -> None:
    lines = "for i in $(seq 1 40); do echo line $i; sleep 0.2; done"
    notebook = open_notebook(QUICK + lines, "%skyrl_attach")
    page, url = notebook.page, notebook.page.url
    page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-cell')")
    expect(page.locator(notebook.outputs(0))).to_contain_text("line 3\n", timeout=SESSION_MS, use_inner_text=True)
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.goto("about:blank")
    notebook.open_again(url)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:move-cursor-down')")
    page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-cell')")
    shown = page.locator(notebook.outputs(1))
    expect(shown).to_contain_text("line 40\n", timeout=SESSION_MS, use_inner_text=True)
    expect(shown).to_contain_text("was shown in this notebook before: here it is from its start")
    expect(shown).to_contain_text("line 1\nline 2\n", use_inner_text=True)
    expect(page.locator(notebook.outputs(0))).not_to_contain_text("line 40")
