"""A cell that goes on while a test does something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.kernel.conftest import CELL_TIMEOUT_S, Cell, Kernel


class Running:
    """A cell of a notebook, begun; ``strays`` are messages that answer other cells."""

    def __init__(self, kernel: Kernel, code: str) -> None:
        self._client = kernel.client
        self._id = kernel.client.execute(code)
        self.cell = Cell()
        self.strays: list[dict[str, Any]] = []

    def until(self, holds: Callable[[Running], bool]) -> None:
        """Take messages until ``holds``."""
        while not holds(self):
            message = self._client.get_iopub_msg(timeout=CELL_TIMEOUT_S)
            mine = message["parent_header"].get("msg_id") == self._id
            (self.cell.messages if mine else self.strays).append(message)

    def until_text(self, text: str) -> None:
        """Take messages until the cell has shown ``text``."""
        self.until(lambda running: text in running.cell.out)

    def end(self) -> Cell:
        """Take messages until the cell is over."""
        self.until(lambda running: any(_is_idle(message) for message in running.cell.messages))
        reply: dict[str, Any] = {"parent_header": {}}
        while reply["parent_header"].get("msg_id") != self._id:
            reply = self._client.get_shell_msg(timeout=CELL_TIMEOUT_S)
        self.cell.status = reply["content"]["status"]
        return self.cell


def _is_idle(message: dict[str, Any]) -> bool:
    return bool(message["msg_type"] == "status" and message["content"]["execution_state"] == "idle")
