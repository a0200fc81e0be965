"""Faults under a notebook's cells: each is one line that says what to do next, and nothing is lost."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import modal
import pytest

from skyrl_magic.agent.watchdog import HANG_VARIABLE
from skyrl_magic.loopback.daemon import ServerAddress
from skyrl_magic.service.runs import new_run_id
from tests.contract.conftest import make_checkout
from tests.kernel.conftest import SETTINGS, Kernel, make_kernel
from tests.kernel.processes import kill, supervisors_of

COUNT = "%%skyrl_modal\nfor i in $(seq 1 40); do echo line $i; sleep 0.05; done"


def test_a_killed_attach_is_not_noticed(kernel: Kernel, loopback_server: ServerAddress) -> None:
    kernel.run("%skyrl_modal true")
    kernel.on_text = ("line 3\n", lambda: kill(loopback_server, "attach"))
    cell = kernel.run(COUNT)
    assert cell.out.splitlines() == [f"line {i}" for i in range(1, 41)]
    assert (cell.status, cell.notes) == ("ok", [])


def test_a_killed_supervisor_ends_the_run_and_the_next_cell_goes_on(
    kernel: Kernel, loopback_server: ServerAddress
) -> None:
    kernel.run("%skyrl_modal echo kept > /root/data/kept")
    kernel.on_text = ("line 3\n", lambda: kill(loopback_server, "supervise"))
    cell = kernel.run(COUNT)
    assert len(cell.error) == 1
    says = "ended with its session: the container has ended: it was killed (exit code 137); %skyrl_logs "
    assert says in cell.error[0]
    assert "the next cell starts a new one" in cell.error[0]
    assert cell.out.startswith("line 1\nline 2\nline 3\n")
    again = kernel.run("%skyrl_modal cat /root/data/kept")
    assert again.out == "kept\n"
    assert any("had ended" in note for note in again.notes)


def test_a_supervisor_that_was_killed_between_two_cells(kernel: Kernel, loopback_server: ServerAddress) -> None:
    kernel.run("%skyrl_modal true")
    kill(loopback_server, "supervise")
    cell = kernel.run("%skyrl_modal echo on")
    assert (cell.out, cell.error) == ("on\n", [])


@pytest.fixture
def impatient(kernel: Kernel, modal_client: modal.Client) -> Iterator[Kernel]:
    """The kernel without a session; in the next one a supervisor that has not moved for six seconds hangs."""
    name = f"impatient-{new_run_id()}"
    modal.Secret.objects.create(name, {HANG_VARIABLE: "6"}, client=modal_client)  # reaches the first process
    kernel.run(f"%skyrl_stop --all\n%config SkyRLMagic.secret = {name!r}")
    yield kernel
    kernel.run("%skyrl_stop --all\n%config SkyRLMagic.secret = None")
    # The session that has ended stays the current one, with its secret; the tests that follow begin in another.
    kernel.run(f"%skyrl_start --session {new_run_id()}")
    modal.Secret.objects.delete(name, client=modal_client)


HUNG = "its supervisor hung (it had not moved for 6s), so its watchdog ended it"


def test_a_supervisor_that_hangs_ends_its_container_and_the_next_cell_says_why(
    impatient: Kernel, loopback_server: ServerAddress
) -> None:
    def hang() -> None:
        [supervisor] = supervisors_of(loopback_server)
        supervisor.suspend()

    impatient.on_text = ("line 3\n", hang)
    cell = impatient.run("%%skyrl_modal\nfor i in 1 2 3; do echo line $i; done; sleep 600")
    assert len(cell.error) == 1
    assert f"ended with its session: the container has ended: {HUNG}; %skyrl_logs " in cell.error[0]
    again = impatient.run("%skyrl_modal echo on")
    assert (again.out, again.error) == ("on\n", [])
    assert any(f"had ended: {HUNG}" in note for note in again.notes), again.notes


def test_a_supervisor_that_hung_between_two_cells(impatient: Kernel, loopback_server: ServerAddress) -> None:
    impatient.run("%skyrl_modal true")
    [supervisor] = supervisors_of(loopback_server)
    supervisor.suspend()
    supervisor.wait(60)
    cell = impatient.run("%skyrl_modal echo on")
    assert (cell.out, cell.error) == ("on\n", [])
    assert any(f"had ended: {HUNG}" in note for note in cell.notes), cell.notes


TOKEN = {"MODAL_TOKEN_ID": "ak-x", "MODAL_TOKEN_SECRET": "as-x"}


@contextmanager
def account_kernel(folder: Path, **variables: str) -> Iterator[Kernel]:
    """A kernel of a user with a Modal account, at the server that ``MODAL_SERVER_URL`` names."""
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    checkout = make_checkout(folder / "SkyRL", old_layout=False)
    env = {"HOME": str(home), "IPYTHONDIR": str(home / "ipython"), "MODAL_GPU": ""}
    kernel = Kernel(checkout.root, env | {"SKYRL_MAGIC_LOOPBACK_DIR": str(folder / "unused")} | variables)
    try:
        kernel.run(SETTINGS)
        yield kernel
    finally:
        kernel.close()


def test_a_token_that_is_refused(loopback_server: ServerAddress, tmp_path: Path) -> None:
    token = {"MODAL_TOKEN_ID": loopback_server.token_id, "MODAL_TOKEN_SECRET": "as-wrong"}
    with account_kernel(tmp_path, MODAL_SERVER_URL=loopback_server.url, **token) as kernel:
        for line in ("%skyrl_modal ls", "%skyrl_start", "%skyrl_sessions", "%skyrl_stop --all"):
            cell = kernel.run(line)
            assert len(cell.error) == 1
            assert "AuthError" in cell.error[0]
            assert "`modal setup` makes a token, --backend local needs none" in cell.error[0]
            assert "as-wrong" not in cell.error[0]


def test_a_server_that_hangs_is_seen_and_stop_leaves_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with account_kernel(tmp_path, MODAL_SERVER_URL=url, **TOKEN) as kernel:
            kernel.on_note = ("waiting for Modal at", kernel.manager.interrupt_kernel)
            cell = kernel.run("%skyrl_modal ls")
            assert len(cell.error) == 1
            assert "RunStopped" in cell.error[0]
            assert "stopped before the run began" in cell.error[0]


def test_stop_is_heard_where_the_server_hangs_during_a_run(kernel: Kernel, loopback_server: ServerAddress) -> None:
    kernel.run("%skyrl_modal true")
    pid = int(kernel.run("import os\nprint(os.getpid())").out)
    presses = iter(range(4))

    def press() -> None:
        # SIGINT, SIGTERM and SIGKILL, none of which arrives, and the press that leaves the run.
        if next(presses, None) is not None:
            os.kill(pid, signal.SIGINT)
            threading.Timer(1.2, press).start()  # not in a row

    def hang() -> None:
        os.kill(loopback_server.pid, signal.SIGSTOP)
        press()

    kernel.on_text = ("begun\n", hang)
    try:
        cell = kernel.run("%%skyrl_modal\necho begun; sleep 600")
    finally:
        os.kill(loopback_server.pid, signal.SIGCONT)
    assert "which no signal reaches: %skyrl_stop ends its session" in cell.error[-1]
    kernel.run("%skyrl_stop --all")
    assert kernel.run("%skyrl_modal echo on").out == "on\n"


def test_an_old_modal_is_named_with_what_to_install(tmp_path: Path) -> None:
    info = tmp_path / "site" / "modal-1.2.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: modal\nVersion: 1.2.0\n")
    with account_kernel(tmp_path, PYTHONPATH=str(tmp_path / "site")) as kernel:
        for line in ("%skyrl_modal ls", "%skyrl_modal --backend modal ls", "%skyrl_sessions"):
            cell = kernel.run(line)
            assert len(cell.error) == 1
            assert "modal 1.2.0 is installed, and this package knows modal>=1.6" in cell.error[0]
            assert "run `pip install" in cell.error[0]


def test_without_bubblewrap_it_is_named_and_nothing_is_left(tmp_path: Path, hide_bubblewrap: Path) -> None:
    checkout = make_checkout(tmp_path / "SkyRL", old_layout=False)
    kernel = make_kernel(checkout.root, ServerAddress("", "", "", 0, hide_bubblewrap))
    try:
        kernel.run(SETTINGS)
        cell = kernel.run("%skyrl_modal ls")
        assert len(cell.error) == 1
        assert "apt-get install bubblewrap" in cell.error[0]
        assert "no sessions run" in kernel.run("%skyrl_sessions").result
    finally:
        kernel.close()


@pytest.fixture
def hide_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The state folder of a running server that finds no bubblewrap."""
    from skyrl_magic.loopback.daemon import ensure_server, stop_server
    from tests.loopback.making import hide

    hide("bwrap", tmp_path, monkeypatch)
    state = tmp_path / "state"
    ensure_server(state, timeout_s=60)
    monkeypatch.undo()
    yield state
    stop_server(state, timeout_s=60)
