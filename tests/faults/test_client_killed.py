"""A notebook's kernel is killed under its run: the run does not notice, and the next kernel goes on with it."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.contract.conftest import make_checkout
from tests.faults.ledger import Ledger
from tests.faults.sandbox import Inside
from tests.kernel.conftest import SETTINGS, Kernel, make_kernel
from tests.kernel.running import Running

pytestmark = pytest.mark.faults

LINES = 250
#: Numbers and times, a line each 10 ms or so.
COUNT = f"""\
import time
for i in range({LINES}):
    print(i, time.monotonic(), flush=True)
    time.sleep(0.01)"""
CELLS = {"shell": f"%%skyrl_modal\npython3 -Sc '\n{COUNT}'", "Python": f"%%skyrl_python\n{COUNT}"}
#: A continuation begins where the notebook's output was when a ping said so: each second, and a little for its way.
OVERLAP_S = 1.5
#: A run that noticed would have waited; on a busy machine any process waits for a moment.
PAUSE_S = 2.0


@dataclass(frozen=True)
class Line:
    """A line of the run."""

    number: int
    at_s: float


def lines_of(text: str) -> list[Line]:
    """The lines of a run's output."""
    return [Line(int(number), float(at_s)) for number, at_s in re.findall(r"(\d+) ([\d.]+)\n", text)]


class Notebook:
    """A notebook's folder, in which one kernel after the other is started."""

    def __init__(self, folder: Path, server: ServerAddress) -> None:
        self.folder, self._server = folder, server

    @contextlib.contextmanager
    def kernel(self) -> Iterator[Kernel]:
        """A new kernel with the extension loaded."""
        kernel = make_kernel(self.folder, self._server)
        try:
            kernel.run(SETTINGS)
            yield kernel
        finally:
            kernel.close()


@pytest.fixture(scope="module")
def notebook(server: ServerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    checkout = make_checkout(tmp_path_factory.mktemp("killed") / "SkyRL", old_layout=False)
    notebook = Notebook(checkout.root, server)
    with notebook.kernel() as kernel:
        kernel.run("%%skyrl_python\n1")  # the session, with its Python kernel, is there
        yield notebook
        kernel.run("%skyrl_stop --all")


def test_the_kernel_is_killed_in_mid_run(notebook: Notebook, server: ServerAddress) -> None:
    ledger = Ledger(
        2,
        "`kill -9` of the notebook's kernel in mid-run, then `%skyrl_attach` from a new one",
        "the run never noticed; its output goes on where it stopped, at most the last second twice; all of it "
        "`--from start`",
        full=50,
        short=2,
    )
    rng = ledger.rng()
    inside = Inside(server)
    for number in ledger:
        with ledger.trial():
            code = [*CELLS.values()][number % 2]
            with notebook.kernel() as kernel:
                seen = _killed(kernel, code, rng.randrange(1, LINES - 50))
            with notebook.kernel() as kernel:
                began = time.monotonic()
                attached = Running(kernel, "%skyrl_attach")
                attached.until(lambda running: bool(running.cell.out or running.cell.error))
                ledger.figure("`%skyrl_attach` in a new kernel shows something after", time.monotonic() - began, "s")
                goes_on = attached.end()
                [run_id] = re.findall(r"run (\w+) has ended", "\n".join(goes_on.notes))
                again = kernel.run(f"%skyrl_attach {run_id} --from start")
            _check(ledger, inside.journal(run_id).decode(), seen, goes_on.out, again.out)


def _killed(kernel: Kernel, code: str, at_line: int) -> str:
    """Run a cell and kill the kernel at a line; what was shown."""
    pid = int(kernel.run("import os; os.getpid()").result)
    running = Running(kernel, code)
    running.until_text(f"\n{at_line} ")
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(queue.Empty):  # what it sent before
        while True:
            running.cell.messages.append(kernel.client.get_iopub_msg(timeout=0.3))
    return running.cell.out


def _check(ledger: Ledger, journal: str, seen: str, goes_on: str, again: str) -> None:
    lines = lines_of(journal)
    assert [line.number for line in lines] == [*range(LINES)]
    pause_s = max(line.at_s - before.at_s for before, line in pairwise(lines))
    ledger.figure("the run's longest pause between two lines", pause_s, "s")
    assert pause_s < PAUSE_S
    assert again == journal
    assert journal.startswith(seen)
    assert journal.endswith(goes_on)
    twice = journal[len(journal) - len(goes_on) : len(seen)]
    assert len(goes_on) + len(seen) >= len(journal), "a part was never shown"
    first, last = (lines_of(twice)[at] if twice else lines[0] for at in (0, -1))
    ledger.figure("shown twice", last.at_s - first.at_s, "s of output")
    assert last.at_s - first.at_s < OVERLAP_S
