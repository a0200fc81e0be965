"""The notebook's kernel is frozen under a flood: the run goes on, the agent's memory stays, nothing is lost."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import threading
import time

import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.faults.ledger import Ledger
from tests.faults.sandbox import Inside, memory_bytes
from tests.kernel.conftest import Kernel
from tests.kernel.processes import processes_of
from tests.kernel.running import Running
from tests.kernel.test_background import run_id_of

pytestmark = pytest.mark.faults

BLOCK_LINES, BLOCKS_PER_S, LINE_BYTES = 500, 80, 100
#: How much longer than the freeze the run is, in seconds; it begins about a second before it.
MORE_S = 4
#: 4 MB/s in numbered lines, fifty times what travels; in the end how long the slowest write took.
FLOOD = f"""\
import os, time
slowest = 0.0
began = time.monotonic()
for block in range({{seconds}} * {BLOCKS_PER_S}):
    numbers = range(block * {BLOCK_LINES}, (block + 1) * {BLOCK_LINES})
    lines = "".join(f"{{{{number:0{LINE_BYTES - 1}}}}}\\n" for number in numbers)
    before = time.monotonic()
    os.write(1, lines.encode())
    slowest = max(slowest, time.monotonic() - before)
    time.sleep(max(0.0, began + (block + 1) / {BLOCKS_PER_S} - time.monotonic()))
os.write(2, f"slowest {{{{slowest:.4f}}}}\\n".encode())"""
#: A run that waited for its reader would wait for all of the freeze.
BLOCKED_S = 2.0
FLAT_BYTES = 20_000_000


def test_the_client_is_frozen_under_a_flood(kernel: Kernel, server: ServerAddress) -> None:
    ledger = Ledger(
        9,
        "the notebook's kernel frozen (SIGSTOP) for 30 s under a run that prints 4 MB/s",
        "the run is not blocked; memory of supervisor, its forks and `attach` flat (± 20 MB, as PSS); the journal has "
        "every byte, the cell shows the newest lines and how much it left out",
        full=10,
        short=1,
    )
    freeze_s = 30 if ledger.is_full else 5
    seconds = freeze_s + MORE_S
    lines = seconds * BLOCKS_PER_S * BLOCK_LINES
    expected = hashlib.sha256("".join(f"{number:0{LINE_BYTES - 1}}\n" for number in range(lines)).encode()).hexdigest()
    pid = int(kernel.run("import os; os.getpid()").result)
    inside = Inside(server)
    for _ in ledger:
        with ledger.trial():
            running = Running(kernel, f"%%skyrl_modal\npython3 -Sc '{FLOOD.format(seconds=seconds)}'")
            running.until_text("\n")
            before = _agent_bytes(inside, server)
            most = _frozen(pid, freeze_s, inside, server)
            thawed = time.monotonic()
            cell = running.end()
            ledger.figure("from the thaw to the cell's end", time.monotonic() - thawed, "s")
            ledger.figure("the agent's memory meanwhile, at most", (most - before) / 1e6, "MB more")
            assert cell.status == "ok", cell.error
            assert abs(most - before) < FLAT_BYTES
            run_id = run_id_of(kernel)
            blocked_s = float(inside.journal(run_id, "stderr").removeprefix(b"slowest "))
            ledger.figure("the run's slowest write", blocked_s, "s")
            assert blocked_s < BLOCKED_S
            assert hashlib.sha256(inside.journal(run_id)).hexdigest() == expected
            _shows_the_newest(cell.out, cell.notes, lines)


def _frozen(pid: int, freeze_s: float, inside: Inside, server: ServerAddress) -> int:
    """Freeze a process; the most memory that the agent had meanwhile."""
    over, most = threading.Event(), 0
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(freeze_s, over.set)
    timer.start()
    try:
        while not over.wait(0.5):
            most = max(most, _agent_bytes(inside, server))
    finally:
        timer.cancel()
        os.kill(pid, signal.SIGCONT)
    return most


def _agent_bytes(inside: Inside, server: ServerAddress) -> int:
    """Resident memory of the agent: what watches, the supervisor, its forks (shims, archive passes), attaches."""
    agent = {*processes_of(server, "attach"), *inside.forks()}
    return sum(map(memory_bytes, agent))


def _shows_the_newest(out: str, notes: list[str], lines: int) -> None:
    """The lines of the cell are the run's, in order, none twice, to the last one; what lacks is counted."""
    [tail] = [note for note in notes if "left out here" in note]
    shown = [int(line) for line in re.findall(rf"^\d{{{LINE_BYTES - 1}}}$", f"{out}\n{tail}", re.MULTILINE)]
    assert shown == sorted(set(shown))
    assert shown[-1] == lines - 1
    [left_out_mb] = re.findall(r"… ([\d.]+) MB", tail)
    assert abs(float(left_out_mb) * 1e6 - (lines - len(shown)) * LINE_BYTES) < 100_000
