"""A process of the session is killed: the supervisor lives, and the next cell works or says why in one line."""

from __future__ import annotations

import time

import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.faults.ledger import Ledger
from tests.faults.sandbox import Inside
from tests.kernel.conftest import Cell, Kernel
from tests.kernel.processes import kill, processes_of

pytestmark = pytest.mark.faults

LINES = 100
#: Waits without a process of its own.
COUNT = f"%%skyrl_modal\nexec 3<> <(:)\nfor i in $(seq {LINES}); do echo line $i; read -t 0.01 -u 3; done; true"
WHOLE = "".join(f"line {i}\n" for i in range(1, LINES + 1))
#: Ends by being killed alone: looking for what is to be killed takes longer than the last lines of a short one.
PYTHON_COUNT = "%%skyrl_python\nimport time\nfor i in range(10_000):\n    print('line', i)\n    time.sleep(0.02)"
MUST = "the supervisor lives; the next cell works or says why in one line"


def test_attach_is_killed(kernel: Kernel, server: ServerAddress) -> None:
    ledger = Ledger(3, "`kill -9` of `attach` under a run", f"{MUST}; the run's output is whole", full=50, short=3)
    rng = ledger.rng()
    inside = Inside(server)
    for _ in ledger:
        with ledger.trial():
            kernel.on_text = (f"line {rng.randrange(1, LINES)}\n", lambda: kill(server, "attach"))
            began = time.monotonic()
            cell = kernel.run(COUNT)
            ledger.figure("the cell, of which the run takes 1 s", time.monotonic() - began, "s")
            assert (cell.status, cell.out, cell.notes) == ("ok", WHOLE, []), cell.error
            assert inside.supervisor.is_running()
            assert kernel.run("%skyrl_modal echo next").out == "next\n"


def test_the_python_kernel_is_killed(kernel: Kernel, server: ServerAddress) -> None:
    ledger = Ledger(4, "`kill -9` of the Python kernel, under a cell or between two", MUST, full=50, short=3)
    rng = ledger.rng()
    kernel.run("%%skyrl_python\n1")
    inside = Inside(server)
    for number in ledger:
        with ledger.trial():
            if number % 2:
                kill(server, "kernel")
            else:
                kernel.on_text = (f"line {rng.randrange(1, LINES)}\n", lambda: kill(server, "kernel"))
                _says_that_it_was_killed(kernel.run(PYTHON_COUNT))
            began = time.monotonic()
            cell = kernel.run("%%skyrl_python\n1 + 1")
            if number % 2 and cell.error:  # it was handed to the one that died
                _says_that_it_was_killed(cell)
                began = time.monotonic()
                cell = kernel.run("%%skyrl_python\n1 + 1")
            ledger.figure("the next cell, with a new kernel", time.monotonic() - began, "s")
            assert cell.result == "2", cell.error
            assert len(cell.err.splitlines()) == 1
            assert "new Python kernel" in cell.err
            assert inside.supervisor.is_running()
            assert len(processes_of(server, "kernel")) == 1


def _says_that_it_was_killed(cell: Cell) -> None:
    assert len(cell.error) == 1
    assert "SIGKILL" in cell.error[0]
