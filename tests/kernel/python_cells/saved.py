"""What a front end makes of a kernel's messages: the outputs of a saved notebook, built as nbclient builds them."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_notebook, output_from_msg

from tests.kernel.conftest import Cell

Output = dict[str, Any]
_DISPLAYS = ("display_data", "update_display_data", "execute_result")
#: What differs from one run of a cell to the next.
_VARIABLE = (
    (re.compile(r"\bat 0x[0-9a-f]+"), "at 0x…"),
    (re.compile(r"(?:\b|(?<=m))(In|Out) ?(\x1b\[\S*?m)*\[(\x1b\[\S*?m)*\d+"), r"\1[N"),
    (re.compile(r"/(?:[\w.-]+/)*ipykernel_\d+/\d+\.py"), "/ipykernel_P/N.py"),
    (re.compile(r"\(\d+\.py, line"), "(N.py, line"),
    (re.compile(r"\(\d+ times\)"), "(N times)"),
    (re.compile(r"The slowest run took [^\n]*\n"), ""),  # of %timeit, where the machine is busy
    # The container's home is /root: IPython writes ~ for it.
    (re.compile(r"/root/"), "~/"),
)
_TIMING = re.compile(r"[\d.:]+(?:e\+\d+)? ?(ns|[μµ]s|us|ms|s|min)\b")
_MESSAGE_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{8,}\w*|[0-9a-f-]{36}_\d+_\d+")


@dataclass
class SavedNotebook:
    """One notebook's cells as they are saved, with its widgets' states."""

    cells: list[Any] = field(default_factory=list)
    comms: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id: the target's name and the state that its messages add up to."""
    inside: dict[str, list[Output]] = field(default_factory=lambda: defaultdict(list))
    """By the id of an Output widget: what it took."""
    _displays: dict[str, list[Output]] = field(default_factory=lambda: defaultdict(list))
    _takes: dict[str, str] = field(default_factory=dict)
    """The Output widget that takes what answers a message, by that message's id."""

    def add(self, code: str, cell: Cell) -> list[Output]:
        """Take a cell's messages. Returns its outputs, which a later cell may still update."""
        saved = new_code_cell(code)
        self.cells.append(saved)
        clear_next: dict[int, bool] = {}
        for message in cell.messages:
            kind, content = message["msg_type"], message["content"]
            if kind.startswith("comm_"):
                self._hear_comm(kind, content)
                continue
            widget = self._takes.get(message["parent_header"]["msg_id"])
            outputs = saved.outputs if widget is None else self.inside[widget]
            if kind == "clear_output":
                clear_next[id(outputs)] = bool(content.get("wait"))
                if not content.get("wait"):
                    outputs.clear()
            elif kind == "update_display_data":
                self._update(content)
            elif kind in ("stream", "error", *_DISPLAYS):
                if clear_next.pop(id(outputs), False):
                    outputs.clear()
                self._append(outputs, message)
        return saved.outputs  # type: ignore[no-any-return]

    def _append(self, outputs: list[Output], message: dict[str, Any]) -> None:
        output = output_from_msg(message)
        if output.output_type == "stream" and outputs and outputs[-1].get("name") == output.name:
            outputs[-1]["text"] += output.text
            return
        outputs.append(output)
        display_id = message["content"].get("transient", {}).get("display_id")
        if display_id:
            # One that is displayed again changes everywhere: it is the same display.
            self._update(message["content"])
            self._displays[display_id].append(output)

    def _update(self, content: dict[str, Any]) -> None:
        for output in self._displays.get(content["transient"]["display_id"], ()):
            output["data"], output["metadata"] = content["data"], content["metadata"]

    def _hear_comm(self, kind: str, content: dict[str, Any]) -> None:
        state = content.get("data", {}).get("state") or {}
        if "msg_id" in state:
            self._takes = {taken: widget for taken, widget in self._takes.items() if widget != content["comm_id"]}
            if state["msg_id"]:
                self._takes[state["msg_id"]] = content["comm_id"]
        if kind == "comm_open":
            self.comms[content["comm_id"]] = {"target": content["target_name"], "state": {}}
        if content["comm_id"] in self.comms:
            self.comms[content["comm_id"]]["state"].update(state)
            if kind == "comm_close":
                self.comms[content["comm_id"]]["closed"] = True

    def check(self) -> None:
        """Raises where this is no valid notebook."""
        nbformat.validate(new_notebook(cells=self.cells))


def normal(value: Any, names: Callable[[str], str], *, timings: bool = False) -> Any:
    """``value`` without what no two runs have in common: counts, addresses, ids and, where asked, times.

    Args:
        value: outputs, states or texts.
        names: gives a widget's id a name that both sides have.
        timings: replace numbers before units of time too.
    """
    if isinstance(value, dict):
        found = {key: normal(item, names, timings=timings) for key, item in value.items()}
        if "execution_count" in found:
            found["execution_count"] = None
        return found
    if isinstance(value, (list, tuple)):
        return [normal(item, names, timings=timings) for item in value]
    if not isinstance(value, str):
        return value
    for pattern, text in _VARIABLE:
        value = pattern.sub(text, value)
    value = re.sub(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", lambda found: names(found[0]), value)
    value = _MESSAGE_ID.sub("message", value)
    return _TIMING.sub("#", value) if timings else value


def namer() -> Callable[[str], str]:
    """Gives each id the number of its first appearance."""
    numbers = itertools.count(1)
    known: dict[str, str] = {}

    def name(found: str) -> str:
        if found not in known:
            known[found] = f"id-{next(numbers)}"
        return known[found]

    return name
