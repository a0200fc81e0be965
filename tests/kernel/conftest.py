"""A real ipykernel with the extension loaded, on the suite's own loopback server."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from skyrl_magic.loopback.daemon import ServerAddress
from tests.contract.conftest import make_checkout

CELL_TIMEOUT_S = 120
#: A notebook's first cell: its sessions have no GPU and no Ray.
SETTINGS = "%load_ext skyrl_magic\n%config SkyRLMagic.gpu = 'none'\n%config SkyRLMagic.ray = False"


@dataclass
class Cell:
    """What a cell sent: its messages on iopub, in order."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    status: str = ""
    payload: list[dict[str, Any]] = field(default_factory=list)
    """What the reply asks of the front end."""

    def text(self, name: str) -> str:
        """All of one stream."""
        return "".join(m["content"]["text"] for m in self.messages if _is_stream(m, name))

    @property
    def out(self) -> str:
        return self.text("stdout")

    @property
    def err(self) -> str:
        return self.text("stderr")

    @property
    def notes(self) -> list[str]:
        """The texts of displays, an updated one with its last text."""
        shown: dict[str, str] = {}
        for number, message in enumerate(self.messages):
            if message["msg_type"] in ("display_data", "update_display_data"):
                key = message["content"].get("transient", {}).get("display_id") or str(number)
                shown[key] = message["content"]["data"].get("text/plain", "")
        return list(shown.values())

    @property
    def result(self) -> str:
        """The text of the cell's value."""
        texts = [m["content"]["data"]["text/plain"] for m in self.messages if m["msg_type"] == "execute_result"]
        return "".join(texts)

    @property
    def error(self) -> list[str]:
        """The lines of the error's traceback, empty without one."""
        return [line for m in self.messages if m["msg_type"] == "error" for line in m["content"]["traceback"]]


def _is_stream(message: dict[str, Any], name: str) -> bool:
    return bool(message["msg_type"] == "stream" and message["content"]["name"] == name)


class Kernel:
    """A kernel and a client of it."""

    def __init__(self, folder: Path, env: dict[str, str], preexec_fn: Callable[[], object] | None = None) -> None:
        self.folder = folder
        self.on_text: tuple[str, Callable[[], object]] | None = None
        """A text on stdout, and what to do once when it has been shown."""
        self.on_note: tuple[str, Callable[[], object]] | None = None
        """The same for a display."""
        self.answers: list[str] = []
        """What the user will answer to ``input()``, in order."""
        self.on_question: Callable[[], object] | None = None
        """What to do, once, instead of answering."""
        self.asked: list[dict[str, Any]] = []
        """The contents of the questions that came."""
        self.manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(folder.parent / f"ipc-{id(self)}"))
        # ipykernel leaves the descriptors alone where it believes that a test runs it.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        self.manager.start_kernel(cwd=str(folder), env=inherited | env, preexec_fn=preexec_fn)
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code: str, *, interrupt_at: str = "", timeout_s: float = CELL_TIMEOUT_S) -> Cell:
        """Execute a cell; interrupt the kernel once, when ``interrupt_at`` has been shown."""
        cell = Cell()
        interrupted = threading.Event()

        def hear(message: dict[str, Any]) -> None:
            cell.messages.append(message)
            if interrupt_at and interrupt_at in cell.out and not interrupted.is_set():
                interrupted.set()
                self.manager.interrupt_kernel()
            if self.on_text and self.on_text[0] in cell.out:
                _, do = self.on_text
                self.on_text = None
                do()
            if self.on_note and any(self.on_note[0] in note for note in cell.notes):
                _, do = self.on_note
                self.on_note = None
                do()

        def answer(message: dict[str, Any]) -> None:
            self.asked.append(message["content"])
            if self.on_question is not None:
                do, self.on_question = self.on_question, None
                do()
                return
            self.client.input(self.answers.pop(0))

        hooks: dict[str, Any] = {"output_hook": hear, "stdin_hook": answer}
        reply = self.client.execute_interactive(code, timeout=timeout_s, store_history=True, **hooks)
        cell.status = reply["content"]["status"]
        cell.payload = reply["content"].get("payload", [])
        return cell

    def close(self) -> None:
        """End the kernel."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


def kernel_environment(folder: Path, server: ServerAddress) -> dict[str, str]:
    """The environment of who works in ``folder`` with ``server`` as its local backend, without a Modal account."""
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    env = {"SKYRL_MAGIC_LOOPBACK_DIR": str(server.state_dir), "HOME": str(home), "IPYTHONDIR": str(home / "ipython")}
    env["XDG_CONFIG_HOME"] = str(home / ".config")
    return env | dict.fromkeys(("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET", "MODAL_GPU"), "")


def make_kernel(
    folder: Path, server: ServerAddress, preexec_fn: Callable[[], object] | None = None, name: str = ""
) -> Kernel:
    """A kernel in ``folder`` with that environment, of a notebook that has a ``name`` as Jupyter Server gives it."""
    env = kernel_environment(folder, server)
    env["JPY_SESSION_NAME"] = name or os.environ.get("JPY_SESSION_NAME") or str(folder / "notebook.ipynb")
    return Kernel(folder, env, preexec_fn)


@pytest.fixture(scope="module")
def kernel(loopback_server: ServerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel in a checkout, with the extension loaded and a session without Ray as its default."""
    checkout = make_checkout(tmp_path_factory.mktemp("kernel") / "SkyRL", old_layout=False)
    kernel = make_kernel(checkout.root, loopback_server)
    kernel.run(SETTINGS)
    yield kernel
    kernel.run("%skyrl_stop --all")
    kernel.close()
