"""A cell whose GPU is not free yet: what it shows, what Stop leaves, and what the end of its kernel leaves."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import modal
import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.conftest import Pretended
from tests.kernel.conftest import SETTINGS, Kernel, make_kernel
from tests.kernel.running import Running
from tests.loopback.making import until

APP = "skyrl-magic-queue"


@pytest.fixture
def waiting(loopback_server: ServerAddress, tmp_path: Path, pretend: Pretended) -> Iterator[Kernel]:
    """A kernel whose sessions get no T4."""
    pretend(machines={"T4": {"wait_s": None}})
    folder = tmp_path / "notebook"
    folder.mkdir()
    kernel = make_kernel(folder, loopback_server)
    kernel.run(f"{SETTINGS}\n%config SkyRLMagic.app = '{APP}'")
    yield kernel
    kernel.close()


def _queued(client: modal.Client, name: str) -> bool:
    try:
        return modal.Sandbox.from_name(APP, name, client=client).poll() is None
    except modal.exception.NotFoundError:
        return False


def test_the_cell_says_what_it_waits_for_and_stop_cancels_it(waiting: Kernel, modal_client: modal.Client) -> None:
    name = f"q-{uuid.uuid4().hex[:8]}"
    waiting.on_note = ("waiting for a T4, ", waiting.manager.interrupt_kernel)
    cell = waiting.run(f"%%skyrl_modal --gpu T4 --session {name}\necho never")
    shown = [m["content"]["data"]["text/plain"] for m in cell.messages if m["msg_type"] == "update_display_data"]
    assert any("; ■ cancels it" in text for text in shown)
    says = f"stopped while session {name} waited for a T4; its creation is cancelled"
    assert says in cell.error[0]
    assert not _queued(modal_client, name)
    assert waiting.run("%skyrl_stop --all").status == "ok"


def test_none_to_be_had_is_one_line(waiting: Kernel, modal_client: modal.Client) -> None:
    name = f"q-{uuid.uuid4().hex[:8]}"
    cell = waiting.run(f"%%skyrl_modal --gpu T4 --wait 1s --session {name}\necho never")
    (line,) = cell.error
    assert "a T4 was not free within 1s; what could be asked for instead: others too (--gpu T4,A10,L4)" in line
    assert not _queued(modal_client, name)
    cell = waiting.run(f"%%skyrl_modal --gpu T4,none --wait 1s --session {name}\necho came")
    assert cell.out == "came\n"
    assert any(f"session {name}: no GPU" in note for note in cell.notes)


def test_a_kernel_that_ends_cancels_what_is_queued(waiting: Kernel, modal_client: modal.Client) -> None:
    name = f"q-{uuid.uuid4().hex[:8]}"
    running = Running(waiting, f"%%skyrl_modal --gpu T4 --session {name}\necho never")
    running.until(lambda run: any("waiting for a T4" in note for note in run.cell.notes))
    assert _queued(modal_client, name)
    waiting.manager.shutdown_kernel()
    until(lambda: not _queued(modal_client, name))
