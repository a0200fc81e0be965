"""The display in a real kernel: the messages on iopub, the saved notebook, and its HTML."""

from __future__ import annotations

import copy
import html
import os
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import nbconvert
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from traitlets.config import Config

from skyrl_magic.core.display_budget import BURST_MESSAGES, HEAD_BYTES, MESSAGES_PER_S, TAIL_BYTES
from tests.kernel.conftest import Kernel

#: Prints as a run does, and waits as the caller of a display does.
DRIVER = """
import time
from skyrl_magic.core.protocol import Gap, Output
from skyrl_magic.ui.display import PhaseLine, RunDisplay, note

class Run:
    def __init__(self):
        self.display = RunDisplay("k3f9")

    def print(self, text, stream="stdout"):
        data = text.encode()
        self.display.feed(Output("k3f9", stream, self.display.offsets[stream], len(data), payload=data))

    def wait(self, seconds):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            due = self.display.flush_due_s
            time.sleep(left if due is None else min(left, due))
            self.display.tick()
"""

#: A cell's code, and the outputs that it leaves: a stream's name or ``display``, and the text.
SCENARIOS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "plain lines": (
        """
        for number in range(3):
            run.print(f"out {number}\\n")
            run.print(f"err {number}\\n", "stderr")
        """,
        [(stream, f"{stream[3:]} {number}\n") for number in range(3) for stream in ("stdout", "stderr")],
    ),
    "a partial line": (
        """
        run.print("Loading… ")
        run.wait(0.5)
        run.print("done\\n")
        """,
        [("stdout", "Loading… done\n")],
    ),
    "a bar": (
        """
        for number in range(1000):
            run.print(f"\\r{number / 10:3.0f}%|{'#' * (number // 50):20}|", "stderr")
            run.wait(0.001)
        run.print(f"\\r100%|{'#' * 20}|\\nnext\\n", "stderr")
        """,
        [("display", f"100%|{'#' * 20}|"), ("stderr", "next\n")],
    ),
    "a bar beside lines": (
        """
        for number in range(20):
            run.print(f"\\r{number} of 20", "stderr")
            run.wait(0.05)
            run.print(f"line {number}\\n")
        run.print("\\r20 of 20\\n", "stderr")
        """,
        [("display", "20 of 20"), ("stdout", "".join(f"line {number}\n" for number in range(20)))],
    ),
    "nested bars": (
        """
        for number in range(10):
            run.print(f"\\router {number}")
            run.print("\\n")
            run.print(f"\\r\\x1b[32minner {number}\\x1b[0m\\x1b[A")
            run.wait(0.05)
        run.print("\\n\\nend\\n")
        """,
        [("display", "outer 9\n\x1b[32minner 9\x1b[0m"), ("stdout", "end\n")],
    ),
    "colors and what looks like HTML": (
        """
        run.print("\\x1b[1;31mred\\x1b[0m <script>alert(1)</script>\\n")
        run.print("\\r<b>bar</b>")
        run.wait(0.5)
        """,
        [("stdout", "\x1b[1;31mred\x1b[0m <script>alert(1)</script>\n"), ("display", "<b>bar</b>")],
    ),
    "a shown line that is redrawn": (
        """
        run.print("step 1")
        run.wait(0.5)
        run.print("\\rstep 2\\n")
        """,
        [("stdout", "step 1\rstep 2\n")],
    ),
    "a gap": (
        """
        run.print("begin\\n")
        run.display.feed(Gap("k3f9", "stdout", 6, 48_300_006))
        run.print("end\\n")
        """,
        [
            ("stdout", "begin\n"),
            ("display", "… 48.3 MB left out here; %skyrl_logs k3f9 --save FILE writes all of it\nend"),
        ],
    ),
}


def cell_code(scenario: str) -> str:
    return f"run = Run()\n{textwrap.dedent(SCENARIOS[scenario][0])}\nrun.display.close('run k3f9 ended')"


@pytest.fixture(scope="module")
def plain_kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel without the extension."""
    folder = tmp_path_factory.mktemp("display") / "work"
    folder.mkdir()
    kernel = Kernel(folder, {"IPYTHONDIR": str(folder / "ipython")})
    kernel.run(DRIVER)
    yield kernel
    kernel.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A notebook of all scenarios, as nbclient leaves it."""
    folder = tmp_path_factory.mktemp("saved")
    notebook = new_notebook(cells=[new_code_cell(code) for code in (DRIVER, *map(cell_code, SCENARIOS))])
    sockets = {"transport": "ipc", "connection_file": str(folder / "kernel.json")}
    options: dict[str, Any] = {
        "kernel_name": "python3",
        "config": Config({"KernelManager": sockets}),
        "resources": {"metadata": {"path": str(folder)}},
    }
    client = NotebookClient(notebook, timeout=60, **options)
    client.execute(env=os.environ | {"IPYTHONDIR": str(folder / "ipython")})
    return notebook


def outputs_of(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What a front end makes of a cell's messages: adjacent text of a stream joined, displays updated."""
    outputs: list[tuple[str, str]] = []
    places: dict[str, int] = {}
    clears = False
    for message in messages:
        content = message["content"]
        clears |= message["msg_type"] == "clear_output"
        if clears and message["msg_type"] in ("stream", "display_data", "execute_result"):
            outputs, places, clears = [], {}, False
        if message["msg_type"] == "stream":
            if outputs and outputs[-1][0] == content["name"]:
                outputs[-1] = (content["name"], outputs[-1][1] + content["text"])
            else:
                outputs.append((content["name"], content["text"]))
        elif message["msg_type"] == "display_data":
            places[content["transient"].get("display_id", "")] = len(outputs)
            outputs.append(("display", content["data"]["text/plain"]))
        elif message["msg_type"] == "update_display_data":
            outputs[places[content["transient"]["display_id"]]] = ("display", content["data"]["text/plain"])
    return outputs


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_messages(plain_kernel: Kernel, scenario: str) -> None:
    cell = plain_kernel.run(cell_code(scenario))
    assert cell.status == "ok", cell.error
    assert outputs_of(cell.messages) == [*SCENARIOS[scenario][1], ("display", "run k3f9 ended")]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_saved_notebook(saved: Any, scenario: str) -> None:
    cell = saved.cells[1 + list(SCENARIOS).index(scenario)]
    joined: list[tuple[str, str]] = []
    for output in cell.outputs:
        kind, text = ("display", output.data["text/plain"]) if "data" in output else (output.name, output.text)
        if joined and kind != "display" and joined[-1][0] == kind:
            joined[-1] = (kind, joined[-1][1] + text)
        else:
            joined.append((kind, text))
    assert joined == [*SCENARIOS[scenario][1], ("display", "run k3f9 ended")]


def test_html_of_the_saved_notebook(saved: Any) -> None:
    # As `jupyter nbconvert --coalesce-streams`: without it, nbconvert begins a line at each message.
    coalesce = Config({"CoalesceStreamsPreprocessor": {"enabled": True}})
    page, _ = nbconvert.HTMLExporter(template_name="basic", config=coalesce).from_notebook_node(copy.deepcopy(saved))
    blocks = [
        html.unescape(re.sub(r"<[^>]+>", "", block)) for block in re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    ]
    shown = "\n".join(blocks)
    expected = [text for _, outputs in SCENARIOS.values() for _, text in outputs]
    for text in expected:
        for line in re.sub(r"\x1b\[[\d;]*m|[^\n]*\r", "", text).splitlines():
            assert line in shown
    assert "step 1" not in shown.splitlines()
    assert "\x1b" not in page
    assert "<script>alert(1)" not in page
    assert "<b>bar" not in page


def test_a_flood_stays_within_the_budget(plain_kernel: Kernel) -> None:
    cell = plain_kernel.run(
        """
        run, printed, begun = Run(), 0, time.monotonic()
        while time.monotonic() - begun < 6:
            run.print("".join(f"line {number:9}\\n" for number in range(printed, printed + 2000)))
            printed += 2000
            run.wait(0.01)
        took = time.monotonic() - begun
        run.display.close("run k3f9 ended")
        (printed, took)
        """
    )
    assert cell.status == "ok", cell.error
    printed, took_s = (float(part) for part in cell.result.strip("()").split(","))
    shown = [m for m in cell.messages if m["msg_type"] in {"stream", "display_data", "update_display_data"}]
    final = 5  # the rest of the head, the tail and the last line
    assert len(shown) <= BURST_MESSAGES + MESSAGES_PER_S * took_s + final
    (head, tail, last) = outputs_of(cell.messages)
    assert head[0] == "stdout"
    assert HEAD_BYTES <= len(head[1]) <= HEAD_BYTES + 15
    notice, _, lines = tail[1].partition("\n")
    assert notice.endswith(" lines) left out here; %skyrl_logs k3f9 --save FILE writes all of it")
    assert lines.endswith(f"line {int(printed) - 1:9}")
    assert len(lines) <= TAIL_BYTES
    assert last == ("display", "run k3f9 ended")


def test_a_write_is_one_message(plain_kernel: Kernel) -> None:
    cell = plain_kernel.run("run = Run()\nrun.print('x' * 99_999 + '\\n')\nrun.display.close()")
    texts = [m["content"]["text"] for m in cell.messages if m["msg_type"] == "stream"]
    assert "".join(texts) == "x" * 99_999 + "\n"
    assert len(texts) <= 2


def test_phases_are_one_display(plain_kernel: Kernel) -> None:
    cell = plain_kernel.run(
        "line = PhaseLine()\nline.begin('image')\nline.begin('Ray')\nline.tick()\nline.done('ready')\nnote('a notice')"
    )
    kinds = [m["msg_type"] for m in cell.messages if "display" in m["msg_type"]]
    assert kinds == ["display_data", "update_display_data", "update_display_data", "display_data"]
    (phases, notice) = outputs_of(cell.messages)
    assert re.fullmatch(r"ready \(image [\d.]+s · Ray [\d.]+s\)", phases[1])
    assert notice == ("display", "a notice")


def test_captured_output_is_captured(plain_kernel: Kernel) -> None:
    cell = plain_kernel.run(
        "%%capture got\nrun = Run()\nrun.print('text\\n')\nrun.print('err\\n', 'stderr')\nrun.display.close()"
    )
    assert outputs_of(cell.messages) == []
    assert plain_kernel.run("(got.stdout, got.stderr)").result == "('text\\n', 'err\\n')"
