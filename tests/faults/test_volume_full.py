"""The disk of volume and container is full in mid-journal: one line says so, the run goes on, what is kept is whole."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyrl_magic.loopback.daemon import ServerAddress, find_server, stop_server
from tests.contract.conftest import make_checkout
from tests.faults.ledger import Ledger
from tests.faults.sandbox import Inside
from tests.kernel.conftest import SETTINGS, Kernel, make_kernel
from tests.kernel.test_background import run_id_of

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk"),
]

DISK_MB = 48
#: More than the disk takes, in about five seconds; exit code 42 says that every write went through.
LINE_BYTES, BLOCK_LINES, BLOCKS = 100, 1000, 600
FLOOD = f"""\
import os, sys, time
for block in range({BLOCKS}):
    lines = range(block * {BLOCK_LINES}, (block + 1) * {BLOCK_LINES})
    text = "".join(f"{{number:0{LINE_BYTES - 1}}}\\n" for number in lines).encode()
    while text:
        text = text[os.write(1, text):]
    time.sleep(0.005)
sys.exit(42)"""
_KEPT = re.compile(r"\d+ bytes of output could not be kept: No space left on device; remove")
WHOLE = "".join(f"{number:0{LINE_BYTES - 1}}\n" for number in range(BLOCKS * BLOCK_LINES)).encode()


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[tuple[Kernel, Path]]:
    """A kernel whose local server, with its containers and volumes, lies on a small disk; and the server's folder."""
    disk = folder / "disk"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", disk], check=True)
    try:
        state = disk / "state"  # the first cell starts the server
        checkout = make_checkout(folder / "SkyRL", old_layout=False)
        kernel = make_kernel(checkout.root, ServerAddress("", "", "", 0, state))
        try:
            kernel.run(SETTINGS)
            yield kernel, state
        finally:
            kernel.close()
            stop_server(state, timeout_s=60)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_the_disk_is_full_in_mid_journal(tmp_path: Path) -> None:
    ledger = Ledger(
        11,
        f"volume and container's disk ({DISK_MB} MB) full in mid-journal",
        "one clear line about the output, one about the volume; the run goes on to its own end; what is kept is the "
        "run's beginning, byte for byte, in the container and on the volume; the logs of earlier runs are whole",
        full=5,
        short=1,
    )
    rng = ledger.rng()
    for number in ledger:
        with ledger.trial(), small_disk(tmp_path / str(number)) as (kernel, state):
            kernel.run("%skyrl_modal echo earlier")
            earlier = run_id_of(kernel)
            kernel.run(f"%skyrl_modal head -c {rng.randrange(1_000_000, 20_000_000)} /dev/zero > /tmp/other")
            cell = kernel.run(f"%%skyrl_modal\nexec python3 -Sc '{FLOOD}'")
            assert "failed: exit code 42" in cell.error[0], cell.error
            told = [note for note in cell.notes if "No space left on device" in note]
            # The output, the commit and the log on the volume, each in one line, where it concerns them.
            assert len([line for line in told if _KEPT.search(line)]) == 1, told
            assert len({line.partition(":")[0] for line in told}) == len(told) <= 3, told
            ledger.figure("lines that say so", len(told))
            run_id = run_id_of(kernel)
            server = find_server(state)
            assert server is not None
            kept = Inside(server).journal(run_id)
            ledger.figure("kept in the container", len(kept) / 1e6, "MB")
            assert WHOLE.startswith(kept)
            assert _log(kernel, run_id, tmp_path) == kept
            assert kernel.run("%skyrl_stop --all").status == "ok"
            archived = _log(kernel, run_id, tmp_path)
            ledger.figure("of it on the volume", len(archived) / 1e6, "MB")
            assert kept.startswith(archived)
            assert _log(kernel, earlier, tmp_path) == b"earlier\n"
            assert kernel.run("%skyrl_modal echo on").out == "on\n"


def _log(kernel: Kernel, run_id: str, folder: Path) -> bytes:
    """The log of a run, from its container or from the volume."""
    file = folder / "log"
    cell = kernel.run(f"%skyrl_logs {run_id} --save {file}")
    assert cell.status == "ok", cell.error
    return file.read_bytes()
