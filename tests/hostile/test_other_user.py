"""What another user of this machine tries: to reach the local server, to stand in for it, to be in its way."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import modal
import psutil
import pytest

from skyrl_magic.agent import ray_start
from skyrl_magic.cloud.client import server_client
from skyrl_magic.cloud.listeners import StrangerError, check_listener
from skyrl_magic.loopback.daemon import ServerAddress, ensure_server, stop_server
from skyrl_magic.loopback.documents import read_json
from skyrl_magic.loopback.runtime import host
from tests.kernel.conftest import SETTINGS, make_kernel

NOBODY = 65534
DEADLINE_S = 60.0
#: The interpreter may lie in a home that others may not enter: it starts as root, and reads what it needs before.
BECOME = """
import encodings.idna, os, resource, socket, sys, threading
os.setgroups([])
os.setresgid(*[int(sys.argv[-1])] * 3)
os.setresuid(*[int(sys.argv[-1])] * 3)
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")

#: Connects, says something and prints how many bytes came back.
SAY = """
said = b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
if sys.argv[2] == "http":
    said = b"HEAD / HTTP/1.0\\r\\n\\r\\n"
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60) as connection:
    try:
        connection.sendall(said)
        print(len(connection.recv(1000)))
    except ConnectionError:
        print(0)
"""
#: Opens many connections, holds those that stay, and waits for its stdin's end.
CROWD = """
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
held = []
for _ in range(1500):
    held.append(socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60))
print("there", flush=True)
sys.stdin.read()
"""
#: Listens, and writes whatever it hears to stdout.
LISTEN = """
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", int(sys.argv[1])))
server.listen()
print("listens", flush=True)
def hear(connection):
    while data := connection.recv(65536):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
def serve():
    while True:
        threading.Thread(target=hear, args=(server.accept()[0],), daemon=True).start()
threading.Thread(target=serve, daemon=True).start()
sys.stdin.read()
"""


def as_user(uid: int, script: str, *words: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-c", BECOME + script, *map(str, words), str(uid)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerAddress]:
    address = ensure_server(tmp_path / "state", timeout_s=DEADLINE_S)
    yield address
    stop_server(address.state_dir, timeout_s=DEADLINE_S)


def ports(server: ServerAddress) -> tuple[int, int]:
    """Of the calls, and of the blobs."""
    document = read_json(server.state_dir / "server.json") or {}
    return document["port"], document["blob_port"]


def hears(uid: int, port: int, protocol: str) -> bool:
    """Whether the server says anything to a process of this user."""
    out, _ = as_user(uid, SAY, port, protocol).communicate(timeout=DEADLINE_S)
    return int(out) > 0


def test_the_server_says_nothing_to_another_user(server: ServerAddress) -> None:
    calls, blobs = ports(server)
    assert [hears(uid, calls, "grpc") for uid in (0, NOBODY)] == [True, False]
    assert [hears(uid, blobs, "http") for uid in (0, NOBODY)] == [True, False]


def test_a_crowd_of_connections_is_in_nobodys_way(server: ServerAddress) -> None:
    crowds = [as_user(NOBODY, CROWD, port) for port in ports(server)]
    try:
        for crowd in crowds:
            assert crowd.stdout is not None
            assert crowd.stdout.readline() == b"there\n"
        client = server_client(server.url, server.token_id, server.token_secret)
        assert list(modal.Volume.objects.list(client=client)) == []
        client.close()
        assert psutil.Process(server.pid).num_fds() < 200
        assert (server.state_dir / "server.log").stat().st_size < 100_000
    finally:
        for crowd in crowds:
            crowd.communicate(timeout=DEADLINE_S)


@contextmanager
def stranger(port: int, heard: bytearray) -> Iterator[None]:
    """Another user listens at a port; what was said there is in ``heard`` afterwards."""
    process = as_user(NOBODY, LISTEN, port)
    assert process.stdout is not None
    assert process.stdout.readline() == b"listens\n"
    try:
        yield
    finally:
        out, _ = process.communicate(timeout=DEADLINE_S)
        heard += out


def test_nothing_is_said_to_who_has_taken_the_servers_port(server: ServerAddress) -> None:
    calls, _ = ports(server)
    client = server_client(server.url, server.token_id, server.token_secret)
    assert list(modal.Volume.objects.list(client=client)) == []
    stop_server(server.state_dir, timeout_s=DEADLINE_S)
    heard = bytearray()
    with stranger(calls, heard):
        with pytest.raises(StrangerError):
            list(modal.Volume.objects.list(client=client))
        with pytest.raises(StrangerError, match=f"another user's program listens at port {calls}"):
            check_listener(calls)
    client.close()
    assert heard == b""


def test_a_cell_says_that_the_servers_port_was_taken(server: ServerAddress, tmp_path: Path) -> None:
    folder = tmp_path / "book"
    folder.mkdir()
    kernel = make_kernel(folder, server)
    heard = bytearray()
    try:
        kernel.run(SETTINGS)
        assert kernel.run("%skyrl_modal --repo none echo on").out.endswith("on\n")
        stop_server(server.state_dir, timeout_s=DEADLINE_S)
        with stranger(ports(server)[0], heard):
            cell = kernel.run("%skyrl_modal echo again")
        assert "the local server has another port now, as another program took its old one" in cell.error[-1]
    finally:
        kernel.close()
    assert heard == b""


def test_the_state_of_another_user_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(PermissionError, match="another user's folder"):
        ensure_server(folder, timeout_s=DEADLINE_S)
    assert list(folder.iterdir()) == []


def theirs(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY, NOBODY)


def everybodys(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o1777)


def linked(folder: Path) -> None:
    folder.with_name("elsewhere").mkdir(mode=0o700)
    folder.symlink_to(folder.with_name("elsewhere"))


@pytest.mark.parametrize("make", [theirs, everybodys, linked])
def test_the_machines_lock_lies_where_nobody_else_can_hold_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "first")
    monkeypatch.setattr(host, "_lock_folders", lambda: iter([tmp_path / "first", tmp_path / "second"]))
    assert host.machine_lock() == tmp_path / "second" / "machine.lock"
    assert (tmp_path / "second").stat().st_mode & 0o777 == 0o700


def test_a_turn_at_rays_start_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ray_start.LOCK_VARIABLE, str(tmp_path / "lock"))
    monkeypatch.setattr(ray_start, "_TURN_S", 0.2)
    with (tmp_path / "lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with ray_start._lock():
            pass
