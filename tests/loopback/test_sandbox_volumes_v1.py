"""Volumes of version 1: committed in the background and at the sandbox's end, never by ``sync``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import modal
import pytest
from modal.exception import ConflictError

from skyrl_magic.loopback.daemon import ensure_server, stop_server
from tests.conftest import make_client
from tests.loopback.making import DEADLINE_S, SandboxMaker, run, until


@contextmanager
def server(state_dir: Path, monkeypatch: pytest.MonkeyPatch, lag_s: float) -> Iterator[modal.Client]:
    """A server whose background commits come this often."""
    monkeypatch.setenv("SKYRL_MAGIC_LOOPBACK_COMMIT_LAG_S", str(lag_s))
    client = make_client(ensure_server(state_dir, timeout_s=DEADLINE_S))
    try:
        yield client
    finally:
        client.close()
        stop_server(state_dir, timeout_s=DEADLINE_S)


def names(volume: modal.Volume) -> list[str]:
    """What is committed."""
    return sorted(entry.path for entry in volume.listdir("/", recursive=True))


def volume(client: modal.Client, name: str, version: int = 1) -> modal.Volume:
    return modal.Volume.from_name(name, create_if_missing=True, version=version, client=client)


def test_commits_without_a_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(tmp_path, monkeypatch, 3600) as client:
        create, old, new = SandboxMaker(client, "L4"), volume(client, "old"), volume(client, "new", version=2)
        first, second = (create(volumes={"/root/data": old, "/mnt/new": new}) for _ in range(2))
        # A sync of both commits the second one only, and succeeds as it does on any file system.
        assert run(first, "touch /root/data/f /mnt/new/f && sync /root/data /mnt/new") == (0, "", "")
        assert (names(old), names(new)) == ([], ["f"])
        # Nor does one that is asked for through the mailbox, as agents ask.
        asks = (
            "cd /run/skyrl_loopback && mkfifo -m 600 reply.own && exec 3<>reply.own && touch /root/data/f\n"
            "echo 'commit reply.own /root/data//' >>requests && head -n 1 <&3"
        )
        assert run(first, asks)[:2] == (0, "ok\n")
        assert names(old) == []
        first.terminate()
        assert names(old) == ["f"]
        assert run(second, "ls /root/data")[1] == ""
        process = second.exec("bash", "-c", "exec 3>/root/data/open; echo opened; read -r _")
        assert next(iter(process.stdout)) == "opened\n"
        with pytest.raises(ConflictError, match="/root/data/open"):
            second.reload_volumes()
        process.stdin.write_eof()
        process.stdin.drain()
        process.wait()
        second.reload_volumes()
        assert run(second, "ls /root/data")[1].split() == ["f", "open"]
        create("touch", "/root/data/exited", volumes={"/root/data": old}).wait()
        assert names(old) == ["exited", "f"]
        create.close()


def test_background_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(tmp_path, monkeypatch, 0.2) as client:
        create, old, new = SandboxMaker(client, None), volume(client, "old"), volume(client, "new", version=2)
        sandbox = create(volumes={"/root/data": old, "/mnt/new": new})
        run(sandbox, "touch /root/data/one /mnt/new/one")
        until(lambda: names(old) == ["one"])
        run(sandbox, "rm /root/data/one; touch /root/data/two")
        until(lambda: names(old) == ["two"])
        assert names(new) == []
        # Read-only: what the other sandbox has committed shows after a reload, and nothing can be written.
        reader = create(volumes={"/root/data": old.with_mount_options(read_only=True)})
        assert run(reader, "ls /root/data; touch /root/data/x")[:2] == (1, "two\n")
        create.close()


def test_a_background_commit_that_fails_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(tmp_path, monkeypatch, 0.1) as client:
        create = SandboxMaker(client, None)
        sandbox = create(volumes={"/root/data": volume(client, "gone")})
        modal.Volume.objects.delete("gone", client=client)
        run(sandbox, "touch /root/data/f")
        log = tmp_path / "sandboxes" / sandbox.object_id / "keeper.log"
        until(lambda: "background commit failed: volume vo-" in log.read_text("utf-8"))
        assert run(sandbox, "echo lives")[1] == "lives\n"
        create.close()
