"""The server's life: found, started once, its address kept, ended when unused."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import modal
import psutil
import pytest
from modal_proto import api_pb2

from skyrl_magic.loopback.daemon import (
    LoopbackError,
    ServerAddress,
    ensure_server,
    find_server,
    hold_lock,
    stop_server,
)
from skyrl_magic.loopback.layout import Layout

DEADLINE_S = 60.0


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """A state directory whose server is ended after the test."""
    root = tmp_path / "state"
    yield root
    stop_server(root, timeout_s=DEADLINE_S)


def hello(address: ServerAddress) -> None:
    with modal.Client(address.url, api_pb2.CLIENT_TYPE_CLIENT, (address.token_id, address.token_secret)) as client:
        client.hello()


def is_gone(pid: int) -> bool:
    """Whether a process has ended (where nobody reaps, it stays as a zombie)."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_second_call_finds_the_first_ones_server(state_dir: Path) -> None:
    assert find_server(state_dir) is None
    first = ensure_server(state_dir, timeout_s=DEADLINE_S)
    assert ensure_server(state_dir) == first == find_server(state_dir)
    hello(first)


def test_many_at_once_start_one_server(state_dir: Path) -> None:
    script = "import sys; from pathlib import Path; from skyrl_magic.loopback.daemon import ensure_server;"
    script += f"print(ensure_server(Path(sys.argv[1]), timeout_s={DEADLINE_S}).pid)"
    command = [sys.executable, "-c", script, str(state_dir)]

    def start(_: int) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=2 * DEADLINE_S).stdout

    with ThreadPoolExecutor(4) as pool:
        pids = set(pool.map(start, range(4)))
    assert len(pids) == 1


def test_a_killed_server_comes_back_with_address_token_and_data(state_dir: Path) -> None:
    first = ensure_server(state_dir, timeout_s=DEADLINE_S)
    client = modal.Client(first.url, api_pb2.CLIENT_TYPE_CLIENT, (first.token_id, first.token_secret))
    with client:
        modal.Volume.objects.create("kept", client=client)
        app_id = modal.App.lookup("app", create_if_missing=True, client=client).app_id
        os.kill(first.pid, signal.SIGKILL)
        wait_until(lambda: is_gone(first.pid))
        second = ensure_server(state_dir, timeout_s=DEADLINE_S)
        assert second.pid != first.pid
        assert (second.url, second.token_secret) == (first.url, first.token_secret)
        # The same client goes on.
        assert [volume.name for volume in modal.Volume.objects.list(client=client)] == ["kept"]
        assert modal.App.lookup("app", client=client).app_id == app_id


def test_another_port_where_the_old_one_is_taken(state_dir: Path) -> None:
    import socket

    first = ensure_server(state_dir, timeout_s=DEADLINE_S)
    stop_server(state_dir, timeout_s=DEADLINE_S)
    port = int(first.url.rpartition(":")[2])
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        second = ensure_server(state_dir, timeout_s=DEADLINE_S)
        assert second.url != first.url
        hello(second)


def test_files_are_the_users_alone(state_dir: Path) -> None:
    ensure_server(state_dir, timeout_s=DEADLINE_S)
    assert state_dir.stat().st_mode & 0o777 == 0o700
    for name in ("server.json", "server.log", "secrets.json"):
        path = state_dir / name
        if path.exists():
            assert path.stat().st_mode & 0o777 == 0o600


def test_it_listens_on_this_machine_only(state_dir: Path) -> None:
    server = psutil.Process(ensure_server(state_dir, timeout_s=DEADLINE_S).pid)
    listening = [c.laddr.ip for c in server.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert set(listening) == {"127.0.0.1"}


def test_an_unused_server_ends_by_itself(state_dir: Path) -> None:
    address = ensure_server(state_dir, timeout_s=DEADLINE_S, idle_exit_s=0.5)
    wait_until(lambda: is_gone(address.pid))
    assert find_server(state_dir) is None


def start_sandbox(client: modal.Client) -> modal.Sandbox:
    app = modal.App.lookup("app", create_if_missing=True, client=client)
    image = modal.Image.from_registry("some/image")
    return modal.Sandbox.create("sleep", "infinity", image=image, app=app, client=client)


def test_a_server_with_a_sandbox_is_not_unused(state_dir: Path) -> None:
    address = ensure_server(state_dir, timeout_s=DEADLINE_S, idle_exit_s=1)
    with modal.Client(address.url, api_pb2.CLIENT_TYPE_CLIENT, (address.token_id, address.token_secret)) as client:
        sandbox = start_sandbox(client)
        with pytest.raises(psutil.TimeoutExpired):
            psutil.Process(address.pid).wait(4)
        sandbox.terminate()
    wait_until(lambda: is_gone(address.pid))


def test_sandboxes_outlive_a_server_but_not_stop(state_dir: Path) -> None:
    first = ensure_server(state_dir, timeout_s=DEADLINE_S)
    with modal.Client(first.url, api_pb2.CLIENT_TYPE_CLIENT, (first.token_id, first.token_secret)) as client:
        sandbox = start_sandbox(client)
        os.kill(first.pid, signal.SIGTERM)
        wait_until(lambda: is_gone(first.pid))
        assert find_server(state_dir) is None
        # Nobody restarts the server: stop must find the sandbox all the same.
        assert stop_server(state_dir, timeout_s=DEADLINE_S)
        ensure_server(state_dir, timeout_s=DEADLINE_S)
        assert sandbox.poll() is not None
    assert stop_server(state_dir, timeout_s=DEADLINE_S)
    assert not stop_server(state_dir, timeout_s=DEADLINE_S)


def test_it_inherits_nothing_and_is_nobodys_child(state_dir: Path, tmp_path: Path) -> None:
    with (tmp_path / "held").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        server = psutil.Process(ensure_server(state_dir, timeout_s=DEADLINE_S).pid)
        assert held.name not in [file.path for file in server.open_files()]
    assert server.ppid() != os.getpid()
    assert os.getsid(server.pid) != os.getsid(0)


def test_stop(state_dir: Path) -> None:
    address = ensure_server(state_dir, timeout_s=DEADLINE_S)
    assert stop_server(state_dir, timeout_s=DEADLINE_S)
    wait_until(lambda: is_gone(address.pid))
    assert not stop_server(state_dir)


def test_a_server_that_cannot_start_says_why(state_dir: Path) -> None:
    layout = Layout(state_dir)
    layout.create()
    layout.table("apps").write_text("not json")
    with pytest.raises(LoopbackError, match="JSONDecodeError"):
        ensure_server(state_dir, timeout_s=DEADLINE_S)
    layout.table("apps").unlink()


def test_a_second_server_is_refused(state_dir: Path) -> None:
    ensure_server(state_dir, timeout_s=DEADLINE_S)
    with pytest.raises(LoopbackError, match="already runs"):
        hold_lock(Layout(state_dir))


def test_starting_needs_no_server_code() -> None:
    script = "import sys, skyrl_magic.loopback.daemon; print(' '.join(sys.modules))"
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60).stdout
    assert not {"grpclib", "aiohttp", "modal", "modal_proto", "asyncio"} & set(out.split())


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "skyrl_magic.loopback", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=2 * DEADLINE_S, cwd="/")


def test_command(state_dir: Path) -> None:
    where = ("--state-dir", str(state_dir))
    assert run_command("--status", *where).returncode == 1
    started = run_command(*where)
    assert started.returncode == 0
    address = find_server(state_dir)
    assert address is not None
    assert started.stdout.splitlines() == [f"export {name}={value}" for name, value in address.environment().items()]
    status = run_command("--status", *where)
    assert status.returncode == 0
    assert address.url in status.stdout
    assert address.token_secret not in status.stdout
    stops = [run_command("--stop", *where) for _ in range(2)]
    assert [stop.returncode for stop in stops] == [0, 0]
    expected = [f"stopped the local server on {state_dir}\n", f"there was no local server on {state_dir}\n"]
    assert [stop.stdout for stop in stops] == expected
    assert run_command("--status", *where).returncode == 1


def test_the_state_directory_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYRL_MAGIC_LOOPBACK_DIR", str(tmp_path / "here"))
    assert f"no local server runs on {tmp_path / 'here'}" in run_command("--status").stdout


def test_foreground_ends_at_ctrl_c(state_dir: Path) -> None:
    command = [sys.executable, "-m", "skyrl_magic.loopback", "--foreground", "--state-dir", str(state_dir)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: find_server(state_dir) is not None)
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()
