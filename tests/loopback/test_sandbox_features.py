"""What users of Modal's library rely on besides: many volumes, logs by time, and refusals that say why."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from typing import Any

import modal
import pytest
from modal.exception import NotFoundError, SandboxTimeoutError, UnimplementedError

from tests.loopback.making import SandboxMaker, run, until


@pytest.fixture
def volumes(modal_client: modal.Client) -> Iterator[list[modal.Volume]]:
    """Three new volumes, of both versions."""
    with ExitStack() as stack:
        made = []
        for version in (2, 2, 1):
            name = f"v-{uuid.uuid4().hex[:12]}"
            made.append(modal.Volume.from_name(name, create_if_missing=True, version=version, client=modal_client))
            stack.callback(modal.Volume.objects.delete, name, client=modal_client, allow_missing=True)
        yield made


def names(volume: modal.Volume) -> list[str]:
    return sorted(entry.path for entry in volume.listdir("/"))


def test_several_volumes(create: SandboxMaker, volumes: list[modal.Volume]) -> None:
    first, second, old = volumes
    writer = create(volumes={"/root/data": first, "/mnt/a b": second, "/mnt/old": old})
    assert run(writer, "touch /root/data/one '/mnt/a b/two' /mnt/old/three; sync '/mnt/a b'")[0] == 0
    assert (names(first), names(second)) == ([], ["two"])
    writer.terminate()
    assert [names(volume) for volume in volumes] == [["one"], ["two"], ["three"]]
    reader = create(volumes={"/root/data": first, "/mnt/2": second.with_mount_options(read_only=True)})
    assert run(reader, "ls /root/data /mnt/2; touch /root/data/own")[:2] == (0, "/mnt/2:\ntwo\n\n/root/data:\none\n")
    code, _, stderr = run(reader, "touch /mnt/2/x")
    assert (code, "Read-only" in stderr) == (1, True)
    reader.terminate()
    assert [names(volume) for volume in volumes] == [["one", "own"], ["two"], ["three"]]


def test_reload_brings_every_volume(create: SandboxMaker, volumes: list[modal.Volume]) -> None:
    first, second, _ = volumes
    sandbox = create(volumes={"/root/data": first, "/mnt/2": second.with_mount_options(read_only=True)})
    run(sandbox, "touch /root/data/mine")
    for volume in (first, second):
        with volume.batch_upload() as batch:
            batch.put_file(__file__, "/put")
    assert run(sandbox, "ls /root/data /mnt/2")[1].split() == ["/mnt/2:", "/root/data:", "mine"]
    sandbox.reload_volumes()
    assert run(sandbox, "ls /root/data /mnt/2")[1].split() == ["/mnt/2:", "put", "/root/data:", "mine", "put"]


def test_a_volume_that_is_gone(create: SandboxMaker, volumes: list[modal.Volume], modal_client: modal.Client) -> None:
    gone = volumes[0].hydrate()
    modal.Volume.objects.delete(str(gone.name), client=modal_client)
    with pytest.raises(NotFoundError, match="vo-"):
        create(volumes={"/root/data": gone})


def test_list_by_tags_shows_the_living_of_both_families(create: SandboxMaker) -> None:
    other = SandboxMaker(create.client, None if create.gpu else "L4")
    other.app = create.app
    try:
        mine, theirs = create(tags={"who": "a", "n": "1"}), other(tags={"who": "a", "n": "2"})
        create(tags={"who": "b"})

        def listed(tags: dict[str, str]) -> set[str]:
            found = modal.Sandbox.list(app_id=str(create.app.app_id), tags=tags, client=create.client)
            return {sandbox.object_id for sandbox in found}

        assert listed({"who": "a"}) == {mine.object_id, theirs.object_id}
        assert listed({"who": "a", "n": "2"}) == {theirs.object_id}
        mine.terminate()
        assert listed({"who": "a"}) == {theirs.object_id}
    finally:
        other.close()


def test_wait_tells_the_end_to_everyone(create: SandboxMaker) -> None:
    sandbox = create("bash", "-c", "read -r _; exit 3")
    again = modal.Sandbox.from_id(sandbox.object_id, client=create.client)
    assert (sandbox.poll(), again.poll()) == (None, None)
    sandbox.stdin.write_eof()
    sandbox.stdin.drain()
    for each in (sandbox, again):
        each.wait()
        assert (each.returncode, each.poll()) == (3, 3)


def test_a_command_ends_with_the_sandboxs_time(create: SandboxMaker) -> None:
    sandbox = create(timeout=3)
    process = sandbox.exec("sleep", "1000")
    with pytest.raises(SandboxTimeoutError):
        sandbox.wait()
    assert process.wait() != 0


def test_logs_of_a_span_of_time(create: SandboxMaker) -> None:
    sandbox = create("bash", "-c", "echo one; read -r _; echo two >&2")
    lines = iter(sandbox.stdout)
    assert next(lines) == "one\n"
    start = datetime.now(timezone.utc) - timedelta(minutes=1)
    between = datetime.now(timezone.utc)
    sandbox.stdin.write("\n")
    sandbox.stdin.drain()
    sandbox.wait()

    def fetched(since: datetime, until_time: datetime) -> str:
        return "".join(entry.message for entry in sandbox.logs.fetch(since=since, until=until_time))

    end = datetime.now(timezone.utc) + timedelta(seconds=1)
    assert fetched(start, end) == "one\ntwo\n"
    assert fetched(start, between) == "one\n"
    assert fetched(between, end) == "two\n"


Refused = Callable[[modal.Sandbox], Any]
REFUSED: dict[str, tuple[Refused, str]] = {
    "filesystem": (lambda s: s.snapshot_filesystem(), "cannot be snapshotted here: keep what must last on a volume"),
    "directory": (lambda s: s.snapshot_directory("/root"), "cannot be snapshotted here"),
    "memory": (lambda s: s._experimental_snapshot(), "cannot be snapshotted here"),
    "connect": (lambda s: s.create_connect_token(), "no port of a sandbox is opened here"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_there_is_refused_with_its_reason(sandbox: modal.Sandbox, what: str) -> None:
    call, reason = REFUSED[what]
    with pytest.raises(UnimplementedError, match=reason) as caught:
        call(sandbox)
    assert "\n" not in str(caught.value)
    assert run(sandbox, "echo lives")[1] == "lives\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"encrypted_ports": [80]}, "tunnels"),
        ({"pty": True}, "terminals"),
        ({"outbound_cidr_allowlist": ["10.0.0.0/8"]}, "addresses"),
    ],
)
def test_options_that_cannot_be_kept_are_refused(create: SandboxMaker, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UnimplementedError, match=words):
        create(**options)
    until(lambda: not list(modal.Sandbox.list(app_id=str(create.app.app_id), client=create.client)))
