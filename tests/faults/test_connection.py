"""The TCP connection under a streaming run is cut: nothing is missing and nothing comes twice."""

from __future__ import annotations

import base64
import hashlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.faults.ledger import Ledger
from tests.faults.proxy import Proxy
from tests.faults.sandbox import Inside
from tests.faults.server import behind
from tests.kernel.conftest import Cell, Kernel
from tests.kernel.test_background import run_id_of
from tests.kernel.test_faults import account_kernel

pytestmark = pytest.mark.faults

#: Below what a cell shows whole (600 KB), and nothing that shrinks much on its way.
STEPS, STEP_BYTES = 40, 10_000
TEXT_FILE = "text"
#: Prints the file in about half a second; a step may end inside a character.
RUN = f"""\
for i in $(seq 0 {STEPS - 1}); do
  tail -c +$((i * {STEP_BYTES} + 1)) {TEXT_FILE} | head -c {STEP_BYTES}
  echo "step $i €" >&2
  sleep 0.01
done"""
ERR = "".join(f"step {i} €\n" for i in range(STEPS))
CAPTURED = "import hashlib\nhashlib.sha256((out + err).encode()).hexdigest()"
#: What a cell may say of its connection; everything else would be a fault.
TOLD = {"the connection to the session broke; reconnecting", "the connection to the session is back"}


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def server(proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerAddress]:
    with behind(proxy, tmp_path_factory.mktemp("proxied") / "state") as address:
        yield address


@pytest.fixture(scope="module")
def far_kernel(proxy: Proxy, server: ServerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel of a user with an account, all of whose calls go through the proxy."""
    token = {"MODAL_TOKEN_ID": server.token_id, "MODAL_TOKEN_SECRET": server.token_secret}
    with account_kernel(tmp_path_factory.mktemp("far"), MODAL_SERVER_URL=proxy.url, **token) as kernel:
        yield kernel


def test_the_connection_is_cut_at_a_random_byte(far_kernel: Kernel, proxy: Proxy, server: ServerAddress) -> None:
    ledger = Ledger(
        1,
        "the TCP connection under a streaming run is cut at a random byte",
        "shown, captured and journalled text equal to the expected bytes",
        full=200,
        short=4,
    )
    rng = ledger.rng()
    text = _make_text(rng, far_kernel.folder / TEXT_FILE)
    whole_s, whole_bytes = _uncut(far_kernel, proxy)
    inside = Inside(server)
    for number in ledger:
        with ledger.trial():
            captured, before = number % 2 == 1, proxy.cuts
            proxy.cut_after(rng.randrange(1, whole_bytes), reset=rng.random() < 0.5)
            began = time.monotonic()
            cell = far_kernel.run(f"%%skyrl_modal{' --out out --err err' if captured else ''}\n{RUN}")
            ledger.figure("longer than an uncut run", time.monotonic() - began - whole_s, "s")
            proxy.disarm()
            ledger.figure("cuts in a run", proxy.cuts - before)
            _check(far_kernel, cell, inside, text, captured=captured)


def _make_text(rng: random.Random, file: Path) -> str:
    """Letters with characters of one to four bytes among them, for :data:`STEPS` steps; into the checkout."""
    text = ""
    while len(text.encode()) < (STEPS - 1) * STEP_BYTES:
        text += "".join(f"{base64.b64encode(rng.randbytes(60)).decode()} é€😀\n" for _ in range(50))
    file.write_text(text, encoding="utf-8")
    return text


def _uncut(kernel: Kernel, proxy: Proxy) -> tuple[float, int]:
    """How long a run takes that nobody cuts, and how many bytes it carries."""
    kernel.run("%skyrl_modal true")
    began, before = time.monotonic(), proxy.carried_bytes
    cell = kernel.run(f"%%skyrl_modal\n{RUN}")
    assert cell.status == "ok", cell.error
    return time.monotonic() - began, proxy.carried_bytes - before


def _check(kernel: Kernel, cell: Cell, inside: Inside, text: str, *, captured: bool) -> None:
    assert cell.status == "ok", cell.error
    assert set(cell.notes) <= TOLD, cell.notes
    if captured:
        assert kernel.run(CAPTURED).result == repr(hashlib.sha256((text + ERR).encode()).hexdigest())
    else:
        assert (cell.out, cell.err) == (text, ERR)
    run_id = run_id_of(kernel)
    assert inside.journal(run_id) == text.encode()
    assert inside.journal(run_id, "stderr") == ERR.encode()
