"""JupyterLab as ``make lab`` starts it, and a page in Chromium that shows a notebook of the test."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import Page, sync_playwright

from demo import places
from demo.lab import lab_command

CHROMIUM = shutil.which("chromium")
CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: The paths of the two front ends on one server.
LAB, NOTEBOOK_7 = "lab/tree", "notebooks"
#: Bound on the start of the server and of a page, in seconds.
START_S = 60
_READY = """() => {
  const shell = window.jupyterapp && window.jupyterapp.shell.currentWidget;
  const session = shell && shell.context && shell.context.sessionContext;
  return !!session && session.isReady && session.session && session.session.kernel
    && session.session.kernel.connectionStatus === 'connected' && session.session.kernel.status === 'idle';
}"""


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab and the folder that it serves."""

    url: str
    token: str
    folder: Path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without Chromium the browser tests are skipped, with a line that says what to install."""
    if CHROMIUM is None:
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason="needs Chromium: apt-get install chromium"))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """JupyterLab on a free port, with a local backend of its own."""
    with tempfile.TemporaryDirectory(prefix="sk-", ignore_cleanup_errors=True) as scratch:
        folder, runtime_dir = Path(scratch) / "work", Path(scratch) / "run"
        folder.mkdir()
        runtime_dir.mkdir()
        env = places.lab_env(runtime_dir, Path(scratch) / "local") | {"SKYRL_MAGIC_BACKEND": "local"}
        expose = (f"--{app}.expose_app_in_browser=True" for app in ("LabApp", "JupyterNotebookApp"))
        options = ("--no-browser", "--ServerApp.port=0", *expose)
        command = lab_command(folder, "page.ipynb", *options)
        with (Path(scratch) / "lab.log").open("wb") as log:
            server = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            info = _wait_for_server(server, runtime_dir)
            yield Lab(info["url"], info["token"], folder)
        finally:
            server.terminate()
            server.wait(timeout=START_S)
            stop = [command[0], "-m", "skyrl_magic.loopback", "--stop"]
            subprocess.run(stop, env=env, check=True, stdout=subprocess.DEVNULL, timeout=60)


def _wait_for_server(server: subprocess.Popen[bytes], runtime_dir: Path) -> dict[str, str]:
    """The address that the server writes when it listens; it has no event to wait for."""
    deadline = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < deadline:
        for path in runtime_dir.glob("jpserver-*.json"):
            info: dict[str, Any] = json.loads(path.read_text() or "{}")
            if info and _listens(info["port"]):  # it writes its file a moment before
                return info
        time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start; see {runtime_dir.parent / 'lab.log'}")


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), START_S).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture(scope="session")
def browser_page() -> Iterator[Page]:
    """A page of a headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(CHROMIUM_FLAGS))
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        yield page
        browser.close()


class NotebookPage:
    """A notebook that is open in the browser, with its kernel idle.

    Args:
        page: the browser's page.
        lab: the server.
        cells: the sources of the code cells.
        app: the path of a front end that the server has: JupyterLab's, or Notebook 7's.
    """

    def __init__(self, page: Page, lab: Lab, *cells: str, app: str = LAB) -> None:
        self.page = page
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, lab.folder / "page.ipynb")
        page.goto(f"{lab.url}{app}/page.ipynb?token={lab.token}&reset")
        page.wait_for_function(_READY, timeout=START_S * 1000)

    def run_all(self) -> None:
        """Run all cells, as the menu does; returns at once."""
        self.page.evaluate("() => void window.jupyterapp.commands.execute('runmenu:run-all')")

    def save_and_reload(self) -> None:
        """Save the notebook and load the page anew; its kernel goes on."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        self.page.reload()
        self.page.wait_for_function(_READY, timeout=START_S * 1000)

    def open_again(self, url: str) -> None:
        """Open the notebook at this address in a page that had left it, and wait until its kernel is idle."""
        self.page.goto(url)
        self.page.wait_for_function(_READY, timeout=START_S * 1000)

    def outputs(self, index: int) -> str:
        """A selector of the output area of a cell."""
        return f".jp-Notebook .jp-Cell:nth-child({index + 1} of .jp-Cell) .jp-Cell-outputArea"


@pytest.fixture
def open_notebook(browser_page: Page, lab: Lab) -> Iterator[type[NotebookPage]]:
    """Opens a notebook with the given cells; its kernel is shut down after the test."""

    class Opened(NotebookPage):
        def __init__(self, *cells: str, app: str = LAB) -> None:
            super().__init__(browser_page, lab, *cells, app=app)

    yield Opened
    browser_page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
