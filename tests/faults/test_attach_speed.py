"""``%skyrl_attach`` in a warm session: how soon it continues, and how long it takes for 10 MB of journal."""

from __future__ import annotations

import time

import pytest

from tests.faults.ledger import Ledger
from tests.kernel.conftest import Kernel
from tests.kernel.running import Running
from tests.kernel.test_background import run_id_of

pytestmark = pytest.mark.faults

LINE_BYTES, LINES = 100, 100_000
REPLAYED = f"seq -f '%0{LINE_BYTES - 1}.0f' {LINES}"
GOES_ON = "%%skyrl_modal --bg\nexec 3<> <(:)\nfor i in $(seq 3000); do echo line $i; read -t 0.01 -u 3; done"


def test_attach_is_quick(kernel: Kernel) -> None:
    ledger = Ledger(
        13,
        "`%skyrl_attach` in a warm session: a run that goes on, and `--from start` of 10 MB of journal",
        "continues within 1 s; replays 10 MB within 2 s, within the display budget (the figures; not asserted)",
        full=10,
        short=1,
    )
    kernel.run("%config SkyRLMagic.on_interrupt = 'detach'")
    for _ in ledger:
        with ledger.trial():
            kernel.run(GOES_ON)
            run_id, began = run_id_of(kernel), time.monotonic()
            attached = Running(kernel, f"%skyrl_attach {run_id}")
            attached.until_text("line")
            ledger.figure("it continues after", time.monotonic() - began, "s")
            kernel.manager.interrupt_kernel()
            assert "goes on" in attached.end().error[-1]
            kernel.run(f"%skyrl_cancel {run_id}")
            kernel.run(f"%%skyrl_modal --bg\n{REPLAYED}")
            kernel.run("_.wait(60)")
            began = time.monotonic()
            cell = kernel.run(f"%skyrl_attach {run_id_of(kernel)} --from start")
            ledger.figure("10 MB are replayed in", time.monotonic() - began, "s")
            assert cell.status == "ok", cell.error
            [tail] = [note for note in cell.notes if "left out here" in note]
            assert tail.endswith(f"{LINES:0{LINE_BYTES - 1}}")
