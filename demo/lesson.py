"""Execute a lesson in a real kernel, and render it as a page."""

from __future__ import annotations

import asyncio
import copy
import uuid
from typing import TYPE_CHECKING, Any

import nbformat
from nbclient import NotebookClient
from nbclient.util import run_sync
from nbconvert import HTMLExporter
from traitlets.config import Config

from demo import widgets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

#: Bound on one cell, in seconds: the first one starts a session, whose Ray waits for its turn and is tried three times.
CELL_TIMEOUT_S = 900
STOP, RESTART = "stop-cell", "restart-kernel"
#: A line of text is easier to read when the window is wide; a picture of widgets has no frame.
_STYLE = """<style>
main { max-width: 64em; margin: auto }
fieldset { border: 0; padding: 0 }
.widget-label { display: inline-block; width: 7em; text-align: right }
</style>"""


class _Reader(NotebookClient):
    """Does with a lesson what its reader does: presses Stop in a cell, and restarts the kernel before one.

    Cells say so by their tags, :data:`STOP` (once the cell has printed something) and :data:`RESTART`.
    """

    def __init__(self, notebook: nbformat.NotebookNode, **options: Any) -> None:
        super().__init__(notebook, **options)
        self.stopped: set[str] = set()

    def process_message(
        self, msg: dict[str, Any], cell: nbformat.NotebookNode, cell_index: int
    ) -> nbformat.NotebookNode | None:
        output = super().process_message(msg, cell, cell_index)
        if msg["msg_type"] == "stream" and STOP in tags(cell) and cell.id not in self.stopped:
            self.stopped.add(cell.id)
            manager: Any = self.km
            self.stopping = asyncio.ensure_future(manager.interrupt_kernel())
        return output

    async def async_execute_cell(
        self, cell: nbformat.NotebookNode, cell_index: int, *args: Any, **options: Any
    ) -> nbformat.NotebookNode:
        if RESTART in tags(cell):
            manager: Any = self.km
            client: Any = self.kc
            await manager.restart_kernel()
            await client.wait_for_ready(timeout=CELL_TIMEOUT_S)
        return await super().async_execute_cell(cell, cell_index, *args, **options)

    execute_cell = run_sync(async_execute_cell)


def tags(cell: nbformat.NotebookNode) -> list[str]:
    """The tags of a cell."""
    found: list[str] = cell.metadata.get("tags", [])
    return found


def pages(reply: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The page that a cell's ``?`` asks for, as outputs: no message shows it, and nbclient has no pager to take it.

    JupyterLab puts it below the cell in the same way (``OutputArea._onExecuteReply``), so it is what a reader sees.

    Args:
        reply: the content of the cell's ``execute_reply``.
    """
    wanted = [item["data"] for item in reply.get("payload", ()) if item["source"] == "page"]
    return [{"output_type": "display_data", "data": data, "metadata": {}} for data in wanted[:1]]


def execute(
    notebook: nbformat.NotebookNode,
    folder: Path,
    env: Mapping[str, str],
    socket_dir: Path,
    on_cell: Callable[[int, nbformat.NotebookNode], None] | None = None,
) -> None:
    """Execute ``notebook`` in place, in a kernel of its own.

    Args:
        notebook: gets the outputs, also those up to a failing cell.
        folder: the kernel's working folder.
        env: the kernel's environment.
        socket_dir: for the kernel's sockets; short, as a socket's path has at most 107 bytes.
        on_cell: called with the index of each code cell before it runs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell without the tag ``raises-exception`` failed.
        nbclient.exceptions.CellTimeoutError: a cell took longer than ``CELL_TIMEOUT_S``.
    """

    def start(cell: nbformat.NotebookNode, cell_index: int) -> None:
        if on_cell is not None and cell.cell_type == "code":
            on_cell(cell_index, cell)

    def page(cell: nbformat.NotebookNode, execute_reply: Mapping[str, Any], **_: Any) -> None:
        cell.outputs += map(nbformat.from_dict, pages(execute_reply["content"]))

    # Unix sockets: ipykernel warns that its TCP ports are readable by every user of the machine.
    sockets = {"transport": "ipc", "connection_file": str(socket_dir / "kernel.json")}
    options: dict[str, Any] = {
        "kernel_name": "python3",
        "config": Config({"KernelManager": sockets}),
        "resources": {"metadata": {"path": str(folder)}},
        "on_cell_start": start,
        "on_cell_executed": page,
    }
    client = _Reader(notebook, timeout=CELL_TIMEOUT_S, **options)
    # As Jupyter Server does, so that the notebook is the same one when its kernel has been restarted.
    client.execute(env={**env, "JPY_SESSION_NAME": str(folder / f"{uuid.uuid4().hex}.ipynb")})


def render(notebook: nbformat.NotebookNode, title: str) -> str:
    """The notebook as one HTML page that loads nothing from the network."""
    drawn = copy.deepcopy(notebook)
    widgets.as_html(drawn)
    # A line that was shown in two messages is one line again.
    joined = Config({"CoalesceStreamsPreprocessor": {"enabled": True}})
    exporter = HTMLExporter(config=joined, mathjax_url="", require_js_url="", jquery_url="")
    page, _ = exporter.from_notebook_node(drawn, resources={"metadata": {"name": title}})
    return str(page).replace("</head>", _STYLE + "</head>", 1)
