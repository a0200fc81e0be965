"""A table of cells, each run in a local kernel and through the magic: a saved notebook has the same of both."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.contract.conftest import make_checkout
from tests.kernel.conftest import Cell, Kernel, make_kernel
from tests.kernel.python_cells import data, displays, errors, programs, text, widgets
from tests.kernel.python_cells.case import Case
from tests.kernel.python_cells.differences import DIFFERENCES
from tests.kernel.python_cells.saved import SavedNotebook, namer, normal

ROOT = Path(__file__).parents[2]
TOPICS: dict[str, tuple[Case, ...]] = {
    module.__name__.rpartition(".")[2]: module.CASES for module in (displays, data, text, errors, programs, widgets)
}
#: A module of the checkout, which cells import.
MODULE = "def work():\n    value = 1\n    # the line below fails\n    return value / 0\n"


@dataclass
class Side:
    """One of the two kernels, with the notebook that its cells make up."""

    kernel: Kernel
    above: str
    notebook: SavedNotebook

    def run(self, case: Case) -> tuple[Cell, list[dict[str, Any]]]:
        """Run a cell; its outputs are those that it has when it ends."""
        self.kernel.asked.clear()
        self.kernel.answers = list(case.answers)
        cell = self.kernel.run(self.above + case.code)
        return cell, self.notebook.add(case.code, cell)


@pytest.fixture(scope="module")
def sides(loopback_server: ServerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Side]]:
    """Both kernels, in checkouts that are alike."""
    found = {}
    for name in ("local", "remote"):
        # IPython writes ~/SkyRL for the checkout in either home.
        home = tmp_path_factory.mktemp(name)
        folder = make_checkout(home / "SkyRL", old_layout=False).root
        (folder / "broken_module.py").write_text(MODULE)
        if name == "local":
            kernel = Kernel(folder, {"HOME": str(home), "IPYTHONDIR": str(home / "ipython")})
            above = ""
        else:
            kernel = make_kernel(folder, loopback_server)
            above = "%%skyrl_python\n"
            kernel.run("%load_ext skyrl_magic\n%config SkyRLMagic.gpu = 'none'\n%config SkyRLMagic.ray = False")
            kernel.run("%skyrl_start")
        found[name] = Side(kernel, above, SavedNotebook())
    yield found
    found["remote"].kernel.run("%skyrl_stop --all")
    for side in found.values():
        side.kernel.close()


def test_the_table_is_long_and_its_names_tell_cells_apart() -> None:
    names = [case.name for cases in TOPICS.values() for case in cases]
    assert len(set(names)) == len(names) >= 60


def test_every_difference_has_a_cell_and_is_in_the_docs() -> None:
    assert {case.differs for cases in TOPICS.values() for case in cases if case.differs} == set(DIFFERENCES)
    page = " ".join((ROOT / "docs" / "python_cells.md").read_text().split())
    assert [name for name, reason in DIFFERENCES.items() if reason not in page] == []


@pytest.mark.parametrize("topic", TOPICS)
def test_cells_leave_the_same(sides: dict[str, Side], topic: str) -> None:
    rows = {case: {name: side.run(case) for name, side in sides.items()} for case in TOPICS[topic]}
    other = [line for case, row in rows.items() for line in _differences(sides, case, row)]
    for side in sides.values():
        side.notebook.check()
    assert not other, "\n".join(other)


def _differences(sides: dict[str, Side], case: Case, row: dict[str, tuple[Cell, list[dict[str, Any]]]]) -> list[str]:
    """Lines that say where a cell leaves other things than it should."""
    local, remote = (_compared(*row[name], sides[name].notebook, case) for name in ("local", "remote"))
    if case.differs:
        assert case.differs in DIFFERENCES
        if local["outputs"] == remote["outputs"]:
            return [f"{case.name}: there is no difference any more"]
        status = remote["status"] if case.differs == "bytes" else local["status"]  # there it raises
        local |= {"outputs": _said(case), "status": status}
        remote |= {"outputs": _pairs(remote, case)}
    before, after = (json.dumps(part, indent=1, ensure_ascii=False).splitlines() for part in (local, remote))
    found = list(difflib.unified_diff(before, after, "local", "remote", n=1, lineterm=""))
    return [f"--- {case.name}", *found] if found else []


def _said(case: Case) -> list[tuple[str, str]]:
    return [_pair(kind, text, case) for kind, text in case.remote]


def _pairs(row: dict[str, Any], case: Case) -> list[tuple[str, str]]:
    """Outputs as :attr:`Case.remote` has them."""
    kinds = {"display_data": "display", "execute_result": "result"}
    found = []
    for output in row["outputs"]:
        text = output.get("text") or output.get("evalue") or output["data"]["text/plain"]
        found.append(_pair(kinds.get(output["output_type"], output.get("name", "error")), text, case))
    return found


def _pair(kind: str, text: str, case: Case) -> tuple[str, str]:
    # Whether a redrawn line is a display or text depends on how fast it was.
    return ("", text.rstrip("\n")) if case.differs == "redrawn" else (kind, text)


def _compared(cell: Cell, outputs: list[dict[str, Any]], notebook: SavedNotebook, case: Case) -> dict[str, Any]:
    names = namer()
    found = normal(outputs, names, timings=case.timings)
    if case.unordered:
        found = sorted(found, key=str)
        for output in found:
            output["text"] = "".join(sorted(output["text"]))
    widgets = normal(list(notebook.comms.values()), names)
    inside = normal(list(notebook.inside.values()), names)
    return {"status": cell.status, "outputs": found, "widgets": widgets, "inside": inside, "reply": _reply(cell)}


def _reply(cell: Cell) -> dict[str, Any]:
    """What a front end takes from the reply."""
    payload = [{name: item for name, item in part.items() if name != "start"} for part in cell.payload]
    return normal({"payload": payload}, namer())  # type: ignore[no-any-return]
