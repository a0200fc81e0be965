"""Sandboxes outlive their server, and nobody outlives a sandbox."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import modal
import psutil
import pytest
from modal.exception import AlreadyExistsError, ConflictError

from skyrl_magic.loopback.daemon import ServerAddress, ensure_server, stop_server
from tests.conftest import make_client
from tests.loopback.making import DEADLINE_S, SandboxMaker, hide, run, until


class Server:
    """A server that a test may kill."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.address: ServerAddress
        self.client: modal.Client | None = None
        self.start()

    def start(self) -> None:
        """Start a server, or another one."""
        self.address = ensure_server(self.state_dir, timeout_s=DEADLINE_S)

    def kill(self) -> None:
        """End the server as a crash would."""
        process = psutil.Process(self.address.pid)
        process.kill()
        process.wait(DEADLINE_S)

    def make(self, gpu: str | None = None) -> SandboxMaker:
        """Sandboxes of this server."""
        if self.client is None:
            self.client = make_client(self.address)
        return SandboxMaker(self.client, gpu)

    def sandbox_dir(self, sandbox: modal.Sandbox) -> Path:
        """Where the server keeps it."""
        return self.state_dir / "sandboxes" / sandbox.object_id

    def close(self) -> None:
        """End everything."""
        if self.client is not None:
            self.client.close()
        stop_server(self.state_dir, timeout_s=DEADLINE_S)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own."""
    started = Server(tmp_path / "state")
    with contextlib.closing(started):
        yield started


def _first_process(sandbox_dir: Path) -> psutil.Process:
    return psutil.Process(json.loads((sandbox_dir / "pids.json").read_text("ascii"))["child"][0])


def _keeper(sandbox_dir: Path) -> psutil.Process:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[-1:] == [str(sandbox_dir)]:
                return process
    raise AssertionError("the sandbox has no keeper")


def _is_over(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("gpu", ["L4", None], ids=["V1", "V2"])
def test_sandbox_goes_on_when_the_server_is_killed(server: Server, gpu: str | None) -> None:
    create = server.make(gpu)
    volume = modal.Volume.from_name("v", create_if_missing=True, version=2, client=create.client)
    options = {"name": "one", "tags": {"k": "v"}, "env": {"WORD": "hush"}, "volumes": {"/root/data": volume}}
    script = "i=0; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo went; sleep 1000"
    sandbox = create("bash", "-c", script, **options)
    run(sandbox, "echo kept >/tmp/file; echo x >/root/data/f")
    url = server.address.url
    server.kill()
    server.start()
    assert server.address.url == url  # so that this client finds it again
    found = modal.Sandbox.from_name(create.app_name, "one", client=create.client)
    assert found.object_id == sandbox.object_id
    assert found.get_tags() == {"k": "v"}
    assert run(sandbox, "cat /tmp/file; echo $WORD; sync /root/data && touch /tmp/go")[1] == "kept\nhush\n"
    assert next(iter(sandbox.stdout)) == "went\n"
    assert b"".join(volume.read_file("f")) == b"x\n"
    with pytest.raises(AlreadyExistsError):
        create(name="one")
    sandbox.terminate()
    sandbox.wait(raise_on_termination=False)
    assert sandbox.returncode == 137


def test_sandbox_that_ended_without_a_server(server: Server) -> None:
    create = server.make()
    sandbox = create("bash", "-c", "while [ ! -e /tmp/go ]; do sleep 0.05; done; echo bye; exit 4")
    timed = create(timeout=1)
    first = _first_process(server.sandbox_dir(sandbox))
    server.kill()
    (Path("/proc") / str(first.pid) / "root/tmp/go").touch()
    for each in (sandbox, timed):
        until((server.sandbox_dir(each) / "exit.json").exists)
    server.start()
    assert [each.returncode for each in _ended(create, sandbox, timed)] == [4, 124]
    assert modal.Sandbox.from_id(sandbox.object_id, client=create.client).stdout.read() == "bye\n"


def _ended(create: SandboxMaker, *sandboxes: modal.Sandbox) -> list[modal.Sandbox]:
    return [modal.Sandbox.from_id(sandbox.object_id, client=create.client) for sandbox in sandboxes]


@pytest.mark.parametrize("moment", ["serving", "down"])
def test_keeper_that_dies_takes_its_sandbox_along(server: Server, moment: str) -> None:
    create = server.make()
    volume = modal.Volume.from_name("v", create_if_missing=True, version=2, client=create.client)
    sandbox = create(volumes={"/root/data": volume})
    run(sandbox, "echo x >/root/data/f")
    folder = server.sandbox_dir(sandbox)
    first, keeper = _first_process(folder), _keeper(folder)
    if moment == "down":
        server.kill()
    keeper.kill()
    if moment == "down":
        server.start()
    until(lambda: _is_over(first))
    until(lambda: _ended(create, sandbox)[0].returncode == 137)
    assert not (folder / "rootfs").exists()
    assert b"".join(volume.read_file("f")) == b"x\n"


def test_stop_ends_all(server: Server) -> None:
    create = server.make()
    sandboxes = [create() for _ in range(3)]
    processes = [_first_process(server.sandbox_dir(sandbox)) for sandbox in sandboxes]
    keepers = [_keeper(server.sandbox_dir(sandbox)) for sandbox in sandboxes]
    stop_server(server.state_dir, timeout_s=DEADLINE_S)
    for process in (*processes, *keepers):
        until(functools.partial(_is_over, process))


def test_stop_ends_those_of_a_dead_server(server: Server) -> None:
    sandbox = server.make()()
    first = _first_process(server.sandbox_dir(sandbox))
    server.kill()
    stop_server(server.state_dir, timeout_s=DEADLINE_S)
    until(lambda: _is_over(first))


def test_server_that_ends_leaves_its_sandboxes(server: Server) -> None:
    sandbox = server.make()()
    first = _first_process(server.sandbox_dir(sandbox))
    process = psutil.Process(server.address.pid)
    process.send_signal(signal.SIGTERM)
    process.wait(DEADLINE_S)
    assert first.is_running()
    server.start()
    assert run(sandbox, "echo on")[1] == "on\n"


def test_bubblewrap_that_is_killed_takes_its_sandbox_along(server: Server) -> None:
    create = server.make()
    volume = modal.Volume.from_name("v", create_if_missing=True, version=2, client=create.client)
    sandbox = create(name="one", volumes={"/root/data": volume})
    run(sandbox, "setsid sleep 1000 >/dev/null 2>&1 & echo x >/root/data/f")
    first = _first_process(server.sandbox_dir(sandbox))
    namespace = _pid_namespace(first.pid)
    assert len(_members(namespace)) >= 2
    bubblewrap = first.parent()
    assert bubblewrap is not None
    assert bubblewrap.name() == "bwrap"
    bubblewrap.kill()
    until(lambda: not _members(namespace))
    until(lambda: sandbox.poll() is not None)
    assert sandbox.poll() == 137
    assert b"".join(volume.read_file("f")) == b"x\n"
    assert run(create(name="one"), "echo on")[1] == "on\n"


def _pid_namespace(pid: int) -> int:
    return (Path("/proc") / str(pid) / "ns/pid").stat().st_ino


def _members(namespace: int) -> list[int]:
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if _pid_namespace(pid) == namespace:
                found.append(pid)
    return found


def test_server_needs_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with contextlib.closing(Server(tmp_path / "state")) as server:
        assert run(server.make()(), "echo on")[1] == "on\n"


def test_missing_bubblewrap_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide("bwrap", tmp_path, monkeypatch)
    with contextlib.closing(Server(tmp_path / "state")) as server:
        create = server.make()
        with pytest.raises(ConflictError, match=r"bwrap.*apt-get install bubblewrap"):
            create()


def test_missing_slirp4netns_means_no_outbound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide("slirp4netns", tmp_path, monkeypatch)
    with contextlib.closing(Server(tmp_path / "state")) as server:
        sandbox = server.make()()
        assert run(sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1")[1].split() == ["lo"]
        assert "slirp4netns" in run(sandbox, "cat /run/skyrl_loopback/network")[1]


def test_record_that_cannot_be_read_does_not_stop_the_server(server: Server) -> None:
    create = server.make()
    broken, sound = create(), create()
    first = _first_process(server.sandbox_dir(broken))
    keeper = _keeper(server.sandbox_dir(broken))
    server.kill()
    (server.sandbox_dir(broken) / "meta.json").write_text('{"of another": "version"}', encoding="ascii")
    server.start()
    until(lambda: _is_over(first) and _is_over(keeper))
    assert run(sound, "echo on")[1] == "on\n"
