"""Stop on process trees that do not want to end: nothing of the run is left after the grace periods."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.faults.ledger import Ledger
from tests.faults.sandbox import Inside
from tests.kernel.conftest import Kernel
from tests.loopback.making import until

pytestmark = pytest.mark.faults

GRACE_S = 0.3
#: How long the last processes may take to be gone when the cell has ended, in seconds.
AFTER_S = 2 * GRACE_S
TREES = {
    "setsid": "setsid sleep 1000 & setsid --fork bash -c 'sleep 1000 & sleep 1000'; echo begun; wait",
    "double fork": "(sleep 1000 & sleep 1000 &) ; ( (setsid sleep 1000 > /dev/null 2>&1 &) & ); echo begun; sleep 1000",
    "output redirected": "sleep 1000 > /tmp/log 2>&1 & nohup sleep 1000 > /tmp/log 2>&1 & echo begun; wait",
    "SIGINT and SIGTERM ignored": (
        "trap '' INT TERM\n(while :; do sleep 0.05; done) &\necho begun; while :; do sleep 0.05; done"
    ),
    "the same, detached": (
        "setsid --fork bash -c 'trap \"\" INT TERM HUP; echo up > /tmp/up; while :; do sleep 0.05; done' "
        "> /dev/null 2>&1 < /dev/null\nuntil [ -e /tmp/up ]; do sleep 0.01; done; rm /tmp/up; echo begun; sleep 1000"
    ),
    "a loop that forks 200": (
        "trap '' INT TERM\nfor i in $(seq 200); do (while :; do sleep 1; done) & done; echo begun; wait"
    ),
    "a chain of forks": (
        "exec python3 -Sc '\nimport os, signal, time\n"
        "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\n"
        'print("begun", flush=True)\n'
        "while True:\n    if os.fork():\n        os._exit(0)\n    time.sleep(0.002)\n'"
    ),
    "zombies": (
        "exec python3 -Sc '\nimport os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for _ in range(50):\n    if not os.fork():\n        os._exit(0)\n"
        'print("begun", flush=True)\nwhile True:\n'
        "    try:\n        time.sleep(1000)\n    except KeyboardInterrupt:\n        pass\n'"
    ),
    "stopped by SIGSTOP": "sleep 1000 & kill -STOP $!; bash -c 'echo begun; kill -STOP $$'; wait",
    "the pipe held open": "(trap '' INT TERM; exec sleep 1000) & setsid --fork sleep 1000; echo begun; exit 0",
}


def test_stop_ends_all_that_a_run_started(kernel: Kernel, server: ServerAddress) -> None:
    ledger = Ledger(
        7,
        f"Stop on nasty process trees, in turn: {', '.join(TREES)}",
        f"no process of the run is left after the grace periods ({GRACE_S} s each)",
        full=100,
        short=len(TREES),
    )
    kernel.run(f"%config SkyRLMagic.grace = {GRACE_S}")
    inside = Inside(server)
    for number in ledger:
        kind = [*TREES][number % len(TREES)]
        with ledger.trial():
            pressed: list[float] = []

            def press(pressed: list[float] = pressed) -> None:
                pressed.append(time.monotonic())
                kernel.manager.interrupt_kernel()

            kernel.on_text = ("begun\n", press)
            cell = kernel.run(f"%%skyrl_modal --env TREE=tree{number}\n{TREES[kind]}")
            took_s = time.monotonic() - pressed[0]
            ledger.figure("Stop to the cell's end", took_s, "s")
            assert "was stopped by" in cell.error[-1], (kind, cell.error)
            began = time.monotonic()
            remains = left(inside, number)
            while remains and time.monotonic() < began + AFTER_S:
                remains = left(inside, number)
            ledger.figure("processes left", len(remains))
            try:
                assert not remains, (kind, remains)
            finally:
                for process in remains:
                    process.kill()
            until(lambda: not [p for p in inside.processes() if p.status() == psutil.STATUS_ZOMBIE])


def left(inside: Inside, number: int) -> list[psutil.Process]:
    """The processes of a run, which have its environment."""
    return [process for process in inside.processes() if _has(process, f"TREE=tree{number}")]


def _has(process: psutil.Process, word: str) -> bool:
    try:
        return word.encode() in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
