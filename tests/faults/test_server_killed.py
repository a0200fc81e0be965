"""The local server is killed and started again: runs go on, sessions are found again."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from skyrl_magic.loopback.daemon import ServerAddress, ensure_server, find_server
from tests.faults.ledger import Ledger
from tests.kernel.conftest import SETTINGS, Kernel, make_kernel

pytestmark = pytest.mark.faults

LINES = 100
#: A line each 20 ms or so, with the time on the container's clock.
COUNT = (
    f"%%skyrl_modal\nexec 3<> <(:)\nfor i in $(seq {LINES}); do echo $i $EPOCHREALTIME; read -t 0.02 -u 3; done; true"
)
#: What a cell may say of its connection.
TOLD = {"the connection to the session broke; reconnecting", "the connection to the session is back"}


def test_the_server_is_killed(kernel: Kernel, server: ServerAddress) -> None:
    ledger = Ledger(
        6,
        "`kill -9` of the loopback server under a run, and its restart: by the cell, or by somebody else",
        "the run goes on and its cell has all of its output; a new kernel finds the session and joins it",
        full=20,
        short=1,
    )
    rng = ledger.rng()
    kernel.run("%skyrl_modal echo same > /tmp/mark")
    for number in ledger:
        with ledger.trial():
            kernel.on_text = (f"\n{rng.randrange(2, LINES)} ", _killer(server, restart=number % 2 == 1))
            began = time.monotonic()
            cell = kernel.run(COUNT)
            ledger.figure("the cell, of which the run takes 2 s", time.monotonic() - began, "s")
            assert cell.status == "ok", cell.error
            assert set(cell.notes) <= TOLD
            lines = re.findall(r"(\d+) ([\d.]+)\n", cell.out)
            assert [int(n) for n, _ in lines] == [*range(1, LINES + 1)]
            pause_s = max(float(later) - float(at_s) for (_, at_s), (_, later) in pairwise(lines))
            ledger.figure("the run's longest pause between two lines", pause_s, "s")
            _is_found(ledger, kernel, server)


def _killer(server: ServerAddress, *, restart: bool) -> Callable[[], object]:
    def kill() -> None:
        running = find_server(server.state_dir)
        assert running is not None
        os.kill(running.pid, signal.SIGKILL)
        if restart:
            ensure_server(server.state_dir, timeout_s=60)

    return kill


def _is_found(ledger: Ledger, kernel: Kernel, server: ServerAddress) -> None:
    other = make_kernel(kernel.folder, server)
    try:
        other.run(SETTINGS)
        table = other.run("%skyrl_sessions").result
        assert len([line for line in table.splitlines() if "none" in line]) == 1, table
        began = time.monotonic()
        assert other.run("%skyrl_modal cat /tmp/mark").out == "same\n"
        ledger.figure("a new kernel's first cell in the session", time.monotonic() - began, "s")
    finally:
        other.close()
