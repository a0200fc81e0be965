"""What threads show after their cell: shown in turns and within bounds, and kept whole."""

from __future__ import annotations

import selectors
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skyrl_magic.agent import late
from skyrl_magic.agent.journal import Cursor, Segment
from skyrl_magic.agent.kernel_run import KernelRun
from skyrl_magic.agent.late import LateOutput
from skyrl_magic.core import protocol


class Notebook:
    """Cells that have ended, what came of them since, and a clock that is set by hand."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(late, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        self.sent: list[protocol.Message] = []
        self.late = LateOutput(self.sent.append)
        self.folder = folder
        self._selector = selectors.DefaultSelector()
        self._runs: list[KernelRun] = []

    def cell(self, run_id: str) -> KernelRun:
        folder = self.folder / run_id
        folder.mkdir()
        run = KernelRun(protocol.ExecuteRun(run_id, str(folder)), self._selector)
        run.end()
        self._runs.append(run)
        return run

    def journal(self, run: KernelRun, stream: str) -> bytes:
        return (self.folder / run.run_id / stream).read_bytes()

    def shown(self) -> list[tuple[str, str]]:
        """The run and the text, or the type, of each message."""
        messages = [message for message in self.sent if isinstance(message, protocol.KernelMessage)]
        assert messages == self.sent
        return [(message.run_id, message.content.get("text", message.msg_type)) for message in messages]

    def close(self) -> None:
        for run in self._runs:
            run.forget()
        self._selector.close()


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    found = Notebook(tmp_path, monkeypatch)
    yield found
    found.close()


def text(value: str, name: str = protocol.STDOUT) -> dict[str, Any]:
    return {"msg_type": "stream", "content": {"name": name, "text": value}, "metadata": {}, "buffers": []}


def display(value: str, buffer: bytes = b"") -> dict[str, Any]:
    buffers = [buffer] if buffer else []
    return {"msg_type": "display_data", "content": {"data": {"text/plain": value}}, "metadata": {}, "buffers": buffers}


def test_it_is_kept_and_shown_where_the_cell_is(notebook: Notebook) -> None:
    first, second = notebook.cell("one"), notebook.cell("two")
    notebook.late.add(first, text("a\n"))
    notebook.late.add(second, text("b\n", protocol.STDERR))
    notebook.late.add(first, display("c", b"png"))
    assert notebook.sent == []
    notebook.late.flush()
    assert notebook.shown() == [("one", "a\n"), ("two", "b\n"), ("one", "display_data")]
    last = notebook.sent[-1]
    assert isinstance(last, protocol.KernelMessage)
    assert protocol.unpack_buffers(last) == [b"png"]
    assert notebook.journal(first, protocol.STDOUT) == b"a\n"
    assert notebook.journal(second, protocol.STDERR) == b"b\n"
    assert list(protocol.FrameDecoder().feed(notebook.journal(first, protocol.OUTPUTS))) == [last]


def test_sends_are_apart(notebook: Notebook) -> None:
    run = notebook.cell("one")
    assert notebook.late.wait_s() is None
    notebook.late.add(run, text("a"))
    assert notebook.late.wait_s() == 0.0
    notebook.late.flush()
    notebook.late.add(run, text("b"))
    wait_s = notebook.late.wait_s()
    assert wait_s is not None
    assert wait_s > 0
    notebook.late.flush()
    assert notebook.shown() == [("one", "a")]
    notebook.now_s += wait_s
    notebook.late.flush()
    assert notebook.shown() == [("one", "a"), ("one", "b")]
    assert notebook.late.wait_s() is None


def test_of_a_flood_of_text_the_beginning_is_shown_and_all_is_kept(notebook: Notebook) -> None:
    run = notebook.cell("one")
    for number in range(100_000):
        notebook.late.add(run, text(f"{number}\n"))
    notebook.late.flush()
    *lines, last = [value for _, value in notebook.shown()]
    assert lines == [f"{number}\n" for number in range(len(lines))]
    assert 7_900 < len("".join(lines)) <= 8_000
    assert last == "… late output left out here; %skyrl_logs one has all of it\n"
    assert notebook.journal(run, protocol.STDOUT) == "".join(f"{number}\n" for number in range(100_000)).encode()


def test_of_a_flood_of_displays_a_few_are_shown(notebook: Notebook) -> None:
    run = notebook.cell("one")
    for number in range(1000):
        notebook.late.add(run, display(str(number)))
    notebook.late.add(run, text("and text\n"))
    notebook.late.flush()
    assert [value for _, value in notebook.shown()] == [
        *["display_data"] * 20,
        "and text\n",
        "… late output left out here; %skyrl_logs one has all of it\n",
    ]
    assert len(list(protocol.FrameDecoder().feed(notebook.journal(run, protocol.OUTPUTS)))) == 1000


def test_one_text_that_is_too_large_is_named_at_its_run(notebook: Notebook) -> None:
    first, second = notebook.cell("one"), notebook.cell("two")
    notebook.late.add(first, text("x" * 10_000))
    notebook.late.add(second, text("short\n"))
    notebook.late.flush()
    assert notebook.shown() == [
        ("two", "short\n"),
        ("one", "… late output left out here; %skyrl_logs one has all of it\n"),
    ]
    assert notebook.journal(first, protocol.STDOUT) == b"x" * 10_000


def test_after_a_flood_there_is_room_again(notebook: Notebook) -> None:
    run = notebook.cell("one")
    for _ in range(3):
        notebook.late.add(run, text("x" * 5_000))
        notebook.late.add(run, text("y" * 5_000))
        notebook.late.flush()
        notebook.now_s += 1
    assert [value[0] for _, value in notebook.shown()] == ["x", "…"] * 3


def descriptors() -> set[str]:
    """Of this process."""
    return {file.name for file in Path("/proc/self/fd").iterdir()}


def test_cells_that_have_ended_hold_no_files_open(notebook: Notebook) -> None:
    before = descriptors()
    runs = [notebook.cell(f"run-{number}") for number in range(20)]
    assert descriptors() == before
    for number in range(2):
        for run in runs:
            notebook.late.add(run, text(f"late {number}\n"))
    assert descriptors() == before
    assert {notebook.journal(run, protocol.STDOUT) for run in runs} == {b"late 0\nlate 1\n"}
    index = Cursor(notebook.folder / "run-0", dict.fromkeys(protocol.JOURNAL_STREAMS, 0))
    assert index.new_segments(ended=False) == [Segment(protocol.STDOUT, 0, 14)]
    index.close()
