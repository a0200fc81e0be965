"""Whose run is meant: notebooks, terminals and scripts of one folder, on one local server."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from skyrl_magic.loopback.daemon import ServerAddress
from tests.contract.conftest import make_checkout
from tests.kernel.conftest import SETTINGS, Kernel, kernel_environment, make_kernel

#: A terminal's first output and each of its answers come within this, in seconds.
DEADLINE_S = 120


class Terminal:
    """IPython in a terminal, asked line by line."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._end, other = pty.openpty()
        command = [
            sys.executable,
            "-m",
            "IPython",
            "--simple-prompt",
            "--no-banner",
            "--no-confirm-exit",
            "--colors=NoColor",
        ]
        self._process = subprocess.Popen(
            command, stdin=other, stdout=other, stderr=other, cwd=folder, env=os.environ | env | {"TERM": "dumb"}
        )
        os.close(other)
        self._count = 0
        self._until("In [1]: ")

    def run(self, line: str) -> str:
        """What a line shows."""
        self._count += 1
        os.write(self._end, f"{line}\n".encode())
        return self._until(f"In [{self._count + 1}]: ")

    def _until(self, text: str) -> str:
        shown = ""
        while text not in shown:
            ready, _, _ = select.select([self._end], [], [], DEADLINE_S)
            assert ready, shown
            shown += os.read(self._end, 65536).decode("utf-8", "replace")
        return shown.replace("\r\n", "\n")

    def close(self) -> None:
        """Leave as with Ctrl-D."""
        with contextlib.suppress(OSError):
            os.write(self._end, b"exit\n")
        with contextlib.suppress(OSError):  # the terminal is gone with its process
            while os.read(self._end, 65536):
                pass
        assert self._process.wait(DEADLINE_S) == 0
        os.close(self._end)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout, in which everybody works."""
    return make_checkout(tmp_path_factory.mktemp("which") / "SkyRL", old_layout=False).root


@pytest.fixture(scope="module")
def books(folder: Path, loopback_server: ServerAddress) -> Iterator[tuple[Kernel, Kernel]]:
    """Two notebooks of the folder, as Jupyter Server names them."""
    found = tuple(make_kernel(folder, loopback_server, name=str(folder / f"{name}.ipynb")) for name in ("one", "two"))
    for kernel in found:
        kernel.run(SETTINGS)
    yield found[0], found[1]
    found[0].run("%skyrl_stop --all")
    for kernel in found:
        kernel.close()


@pytest.fixture
def terminal(folder: Path, loopback_server: ServerAddress) -> Iterator[Terminal]:
    """IPython in a terminal of the folder."""
    found = Terminal(folder, kernel_environment(folder, loopback_server))
    for line in SETTINGS.splitlines():
        found.run(line)
    yield found
    found.close()


def ids(table: str) -> list[str]:
    """The runs of ``%skyrl_runs`` as text."""
    return re.findall(r"^([a-z0-9]{6})  ", table, re.MULTILINE)


def running(kernel: Kernel) -> set[str]:
    """The names of the sessions that run."""
    rows = kernel.run("%skyrl_sessions").result.splitlines()[1:]
    return {row.lstrip("* ").split()[0] for row in rows}


def test_nobody_stops_what_is_anothers(books: tuple[Kernel, Kernel], terminal: Terminal) -> None:
    """Two notebooks, a terminal and three named sessions: each line reaches what is its own, or what it names."""
    one, two = books
    one.run("%config SkyRLMagic.session = 'train'")
    one.run("train = %skyrl_modal --bg sleep 600")
    one.run("%skyrl_modal --session scratch true")
    two.run("eval = %skyrl_modal --bg --session eval sleep 600")
    mine, theirs = (kernel.run("print(*get_ipython().skyrl_magic.run_ids())").out.split()[-1] for kernel in books)
    assert {"train", "scratch", "eval"} <= running(one)

    # A terminal of the same folder has no runs, is in no session, and says so.
    assert "this notebook is in no session yet: %skyrl_stop NAME ends one" in terminal.run("%skyrl_stop")
    for magic in ("%skyrl_attach", "%skyrl_cancel", "%skyrl_logs"):
        said = terminal.run(magic) + terminal.run(f"{magic} -1")
        assert (said.count("UnknownRun"), "this notebook" in said) == (2, True), said
    assert "this notebook has no runs" in terminal.run("%skyrl_runs")
    assert {mine, theirs} <= set(ids(terminal.run("print(repr(get_ipython().run_line_magic('skyrl_runs', '--all')))")))

    # A notebook's own lines: the current session is the one that it named last.
    assert ids(two.run("%skyrl_runs").result) == [theirs]
    assert one.run("%skyrl_stop").notes[0] == "session scratch is stopped"
    assert one.run("%skyrl_stop").notes[0] == "session scratch had ended before"
    assert {"train", "eval"} <= running(one)
    assert any(note.startswith("now in session train") for note in one.run("%skyrl_use train").notes)
    assert one.run("%skyrl_modal --gpu none echo here").out == "here\n"
    assert "* train" in one.run("%skyrl_sessions").result

    # With names: what is there ends, what is not is reported, and the runs that end are named.
    error = two.run("%skyrl_stop nosuch scratch").error
    assert "there is no session nosuch, scratch" in error[-1]
    assert {"train", "eval"} <= running(two)
    assert two.run("%skyrl_cancel").notes == [f"run {theirs} is stopped; %skyrl_logs {theirs} shows its output"]
    assert one.run("train.state").result == "'running'"
    assert one.run("%skyrl_stop").notes[0] == f"session train is stopped, and with it run {mine} (sleep 600)"
    assert running(two) >= {"eval"}


def test_a_run_that_was_shown_is_no_news_in_the_next_kernel(folder: Path, loopback_server: ServerAddress) -> None:
    name = str(folder / "again.ipynb")
    for _ in range(3):
        kernel = make_kernel(folder, loopback_server, name=name)
        try:
            kernel.run(SETTINGS)
            cell = kernel.run("%%skyrl_modal --session again\necho shown; echo too >&2")
            assert cell.out == "shown\n"
            assert [note for note in cell.notes if "meanwhile" in note or "of this notebook" in note] == []
            kernel.client.shutdown()  # as Jupyter ends a kernel, right behind the cell
            kernel.manager.finish_shutdown()
        finally:
            kernel.close()
    kernel = make_kernel(folder, loopback_server, name=name)
    try:
        kernel.run(SETTINGS)
        assert len(ids(kernel.run("%skyrl_runs").result)) == 3
        shown = kernel.run("%skyrl_attach")
        assert (shown.out, shown.err) == ("shown\n", "too\n")
        assert "is over and was shown in this notebook before: here it is from its start" in shown.notes[0]
        kernel.run("%skyrl_stop again")
    finally:
        kernel.close()


def test_notebooks_that_nobody_names_do_not_have_each_others_runs(
    folder: Path, loopback_server: ServerAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in kernel_environment(folder, loopback_server).items():
        monkeypatch.setenv(name, value)
    cells = [SETTINGS, "%skyrl_modal --session batch echo hello", "%skyrl_runs"]
    seen = []
    for _ in range(2):
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        NotebookClient(book, resources={"metadata": {"path": str(folder)}}, kernel_name="python3").execute()
        texts = [output.get("data", {}).get("text/plain", "") for output in book.cells[1].outputs]
        assert not any("meanwhile" in text for text in texts)
        (result,) = book.cells[2].outputs
        seen.append(ids(result["data"]["text/plain"]))
    assert [len(runs) for runs in seen] == [1, 1]
    assert seen[0] != seen[1]
