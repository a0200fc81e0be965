"""The supervisor is killed under a run: its end is said, and the volume has the log."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.faults.ledger import Ledger
from tests.faults.sandbox import Inside
from tests.kernel.conftest import Kernel
from tests.kernel.running import Running
from tests.kernel.test_background import run_id_of

pytestmark = pytest.mark.faults

#: Numbers and seconds since it began, a line each 20 ms or so, until it is killed.
COUNT = """%%skyrl_modal
python3 -Sc '
import itertools, time
began = time.monotonic()
for i in itertools.count():
    print(i, f"{time.monotonic() - began:.3f}", flush=True)
    time.sleep(0.02)'"""
LINE = re.compile(r"(\d+) ([\d.]+)\n")
#: Journals are copied and the volume is committed each 5 s while a run goes on, one after the other.
COMMITTED_S = 12.0
#: A run that ended so long ago is on the volume, in seconds.
ARCHIVED_S = 3.0


def test_the_supervisor_is_killed(kernel: Kernel, server: ServerAddress, tmp_path: Path) -> None:
    ledger = Ledger(
        10,
        "supervisor killed (`kill -9`) under a run",
        "the cell says in one line that its container has ended, the next one that it starts another; what was "
        f"committed is readable: all but the last {COMMITTED_S:.0f} s of the run, all of the one before",
        full=20,
        short=1,
    )
    rng = ledger.rng()
    for number in ledger:
        with ledger.trial():
            assert kernel.run(f"%skyrl_modal echo earlier {number}").status == "ok"
            earlier, log = run_id_of(kernel), tmp_path / f"log-{number}"
            after_s = rng.uniform(ARCHIVED_S, 15.0) if ledger.is_full else 8.0
            running = Running(kernel, COUNT)
            running.until_text("\n")
            timer = threading.Timer(after_s, Inside(server).supervisor.kill)
            timer.start()
            cell = running.end()
            assert len(cell.error) == 1
            assert "the container has ended" in cell.error[0]
            run_id = run_id_of(kernel)
            began = time.monotonic()
            again = kernel.run("%skyrl_modal echo on")
            ledger.figure("the next cell, in a new container", time.monotonic() - began, "s")
            assert (again.out, again.error) == ("on\n", [])
            assert len([note for note in again.notes if "had ended" in note]) == 1, again.notes
            assert kernel.run(f"%skyrl_logs {earlier}").out == f"earlier {number}\n"
            kernel.run(f"%skyrl_logs {run_id} --save {log}")
            _check(ledger, cell.out, log.read_text() if log.exists() else "")


def _check(ledger: Ledger, shown: str, kept: str) -> None:
    lines = LINE.findall(kept)
    assert [int(number) for number, _ in lines] == [*range(len(lines))]
    assert shown.startswith(kept)
    last_s, kept_s = float(LINE.findall(shown)[-1][1]), float(lines[-1][1]) if lines else 0.0
    ledger.figure("the run's last seconds that are not on the volume", last_s - kept_s, "s")
    assert last_s - kept_s < COMMITTED_S
