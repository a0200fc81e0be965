"""What a notebook survives: its local server gone, an interrupt in an import, its folder deleted, changed settings."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyrl_magic.loopback.daemon import ServerAddress, find_server, stop_server
from tests.contract.conftest import make_checkout
from tests.kernel.conftest import SETTINGS, Kernel, make_kernel


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerAddress]:
    """Where a server of the test's own will be: nothing runs there yet."""
    state = tmp_path / "state"
    yield ServerAddress("", "", "", 0, state)
    stop_server(state, timeout_s=60)


@pytest.fixture
def kernel(tmp_path: Path, own_server: ServerAddress) -> Iterator[Kernel]:
    checkout = make_checkout(tmp_path / "SkyRL", old_layout=False)
    kernel = make_kernel(checkout.root, own_server)
    kernel.run(SETTINGS)
    yield kernel
    kernel.run("%skyrl_stop --all")
    kernel.close()


def _server(own_server: ServerAddress) -> ServerAddress:
    server = find_server(own_server.state_dir)
    assert server is not None
    return server


def test_a_server_that_has_gone_is_started_again(kernel: Kernel, own_server: ServerAddress) -> None:
    assert kernel.run("%skyrl_modal echo one").out == "one\n"
    kernel.run("%skyrl_stop --all")
    stop_server(own_server.state_dir, timeout_s=60)
    assert kernel.run("%skyrl_sessions").status == "ok"
    stop_server(own_server.state_dir, timeout_s=60)
    cell = kernel.run("%skyrl_modal echo two")
    assert cell.out == "two\n", cell.error


def test_a_run_outlives_its_killed_server(kernel: Kernel, own_server: ServerAddress) -> None:
    kernel.run("%skyrl_modal true")
    server = _server(own_server)
    kernel.on_text = ("line 3\n", lambda: os.kill(server.pid, signal.SIGKILL))
    cell = kernel.run("%%skyrl_modal\nfor i in $(seq 1 80); do echo line $i; sleep 0.5; done")
    assert cell.status == "ok", cell.error
    assert cell.out.splitlines() == [f"line {i}" for i in range(1, 81)]
    at_once = [m["content"]["text"].count("\n") for m in cell.messages if m["msg_type"] == "stream"]
    assert max(at_once) < 30, "modal's own client notices after 42 lines"
    told = ["the connection to the session broke; reconnecting", "the connection to the session is back"]
    assert cell.notes in ([], told), "a server that is back within two seconds is nothing to tell of"


def test_stop_works_after_the_server_was_killed(kernel: Kernel, own_server: ServerAddress) -> None:
    kernel.run("%skyrl_modal true")
    server = _server(own_server)

    def kill_and_interrupt() -> None:
        os.kill(server.pid, signal.SIGKILL)
        kernel.manager.interrupt_kernel()

    kernel.on_text = ("begun\n", kill_and_interrupt)
    cell = kernel.run("%%skyrl_modal\necho begun; sleep 600")
    assert cell.status == "error"
    assert "was stopped by" in cell.error[-1]


@pytest.mark.parametrize("after_s", [0.1, 0.3, 0.6])
def test_an_interrupted_import_leaves_a_good_kernel(kernel: Kernel, after_s: float) -> None:
    kernel.run(
        "import os, signal, threading\n"
        f"threading.Timer({after_s}, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "get_ipython().run_line_magic('skyrl_modal', '--dry-run ls')\n"
        "import time; time.sleep(2)"
    )
    cell = kernel.run("%skyrl_modal echo good")
    assert cell.out == "good\n", cell.error


def test_changed_settings_count_in_the_next_cell(kernel: Kernel) -> None:
    kernel.run("%skyrl_modal echo x > /tmp/mark")
    assert kernel.run("%skyrl_modal cat /tmp/mark").out == "x\n"
    kernel.run("%config SkyRLMagic.memory = 512")
    assert "512 MiB" in kernel.run("%skyrl_modal --dry-run ls").out
    assert kernel.run("%skyrl_modal cat /tmp/mark").status == "error"
    kernel.run("%config SkyRLMagic.memory = None")
    assert kernel.run("%skyrl_modal cat /tmp/mark").out == "x\n"


def test_a_deleted_folder_still_lets_sessions_be_stopped(kernel: Kernel) -> None:
    kernel.run("%skyrl_modal true")
    kernel.run("import os, shutil; shutil.rmtree(os.getcwd())")
    cell = kernel.run("%skyrl_modal echo x")
    assert cell.status == "error"
    assert len(cell.error) == 1
    assert "is gone" in cell.error[0]
    assert kernel.run("%skyrl_stop --all").status == "ok"
    assert "no sessions" in kernel.run("%skyrl_sessions").result


def test_a_name_needs_only_what_is_asked_for(kernel: Kernel) -> None:
    kernel.run("%skyrl_modal --session here --memory 512 true")
    assert kernel.run("%skyrl_modal --session here --memory 512 echo joined").out == "joined\n"
    conflict = kernel.run("%skyrl_modal --session here --cpu 3 true").error[0]
    assert "runs with --cpu default (asked: 3.0)" in conflict
    assert "memory" not in conflict
