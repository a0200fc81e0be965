"""The lessons' checkout, and a lesson executed once for all the tests of its module."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError, CellTimeoutError

from demo import lesson, places
from demo.prepare_checkout import prepare

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Executed:
    """A lesson with its outputs, and what ended it early, if anything did."""

    notebook: nbformat.NotebookNode
    failure: Exception | None

    def cell(self, cell_id: str) -> nbformat.NotebookNode:
        """The code cell of this id. Fails the test when the lesson did not get there."""
        cell: nbformat.NotebookNode
        (cell,) = (cell for cell in self.notebook.cells if cell.id == cell_id)
        if cell.execution_count is None:
            pytest.fail(f"cell {cell_id} was not executed: {self.failure}")
        return cell

    def text(self, cell_id: str) -> str:
        """All that the cell shows as text, in order, without colours."""
        return _ANSI.sub("", self.colored(cell_id))

    def colored(self, cell_id: str) -> str:
        """The same with its colours, as ANSI sequences."""
        return "".join(_texts(self.cell(cell_id)))


def _texts(cell: nbformat.NotebookNode) -> Iterator[str]:
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        elif output.output_type == "error":
            yield "\n".join((*output.traceback, ""))
        else:
            yield output.data.get("text/plain", "") + "\n"


@pytest.fixture(scope="session")
def short_dir() -> Iterator[Path]:
    """A temporary folder with a short path: sockets lie in it, and their paths have at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="sk-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def checkout(short_dir: Path) -> Path:
    """The lessons' checkout, made from the published package."""
    return prepare(short_dir / "SkyRL", places.BUILD / "downloads")


@pytest.fixture(scope="module")
def executed(request: pytest.FixtureRequest, checkout: Path, short_dir: Path) -> Iterator[Executed]:
    """The module's ``LESSON``, executed in a real kernel on a local backend of its own."""
    notebook = nbformat.read(places.ROOT / "notebooks" / request.module.LESSON, as_version=4)
    env = places.jupyter_env(short_dir, short_dir / "local") | {"SKYRL_MAGIC_BACKEND": "local"}
    failure: Exception | None = None
    try:
        lesson.execute(notebook, checkout, env, short_dir)
    except (CellExecutionError, CellTimeoutError) as error:
        failure = error
    try:
        yield Executed(notebook, failure)
    finally:
        stop = [sys.executable, "-m", "skyrl_magic.loopback", "--stop"]
        subprocess.run(stop, env=env, check=True, stdout=subprocess.DEVNULL, timeout=60)
