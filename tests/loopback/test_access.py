"""Who is let in: each service refuses wrong tokens, and another user of the machine finds none."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import modal
import psutil
import pytest
from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from grpclib.client import Channel
from modal_proto import api_pb2
from modal_proto import task_command_router_pb2 as router_pb2
from modal_proto.api_grpc import ModalClientStub
from modal_proto.task_command_router_grpc import TaskCommandRouterStub

from skyrl_magic.loopback.daemon import ServerAddress, ensure_server, stop_server
from tests.conftest import make_client
from tests.loopback.making import DEADLINE_S, SandboxMaker
from tests.loopback.modal_internals import RawCall

NOBODY = 65534


def status_of(address: ServerAddress, stub: type, method: str, request: Any, metadata: Mapping[str, str]) -> Status:
    """How the server answers a call with this metadata."""

    async def call() -> Status:
        url = urllib.parse.urlsplit(address.url)
        channel = Channel(url.hostname, url.port)
        try:
            await getattr(stub(channel), method)(request, metadata=metadata, timeout=DEADLINE_S)
        except GRPCError as error:
            return error.status
        finally:
            channel.close()
        return Status.OK

    return asyncio.run(call())


def token_pair(token_id: str, token_secret: str) -> dict[str, str]:
    return {"x-modal-token-id": token_id, "x-modal-token-secret": token_secret}


def test_control_needs_the_token_pair(loopback_server: ServerAddress, raw_call: RawCall) -> None:
    right = token_pair(loopback_server.token_id, loopback_server.token_secret)
    issued = raw_call("AuthTokenGet", api_pb2.AuthTokenGetRequest()).token
    wrong: list[dict[str, str]] = [
        {},
        {"x-modal-token-id": loopback_server.token_id},
        token_pair(loopback_server.token_id, loopback_server.token_secret[:-1]),
        token_pair("ak-wrong", loopback_server.token_secret),
        {"authorization": f"Bearer {issued}", "x-modal-auth-token": issued},
    ]
    answers = [status_of(loopback_server, ModalClientStub, "ClientHello", Empty(), given) for given in [right, *wrong]]
    assert answers == [Status.OK] + [Status.UNAUTHENTICATED] * len(wrong)


def test_a_method_that_is_not_there_tells_strangers_nothing(loopback_server: ServerAddress) -> None:
    request = api_pb2.QueueListRequest()
    assert status_of(loopback_server, ModalClientStub, "QueueList", request, {}) is Status.UNAUTHENTICATED


def test_router_needs_a_token_for_the_very_task(
    loopback_server: ServerAddress, create: SandboxMaker, raw_call: RawCall
) -> None:
    first, second = create(), create()
    tasks = [sandbox._get_task_id() for sandbox in (first, second)]
    method = "TaskGetCommandRouterAccess"
    own, other = (raw_call(method, api_pb2.TaskGetCommandRouterAccessRequest(task_id=task)).jwt for task in tasks)
    client = raw_call("AuthTokenGet", api_pb2.AuthTokenGetRequest()).token
    start = router_pb2.TaskExecStartRequest(
        task_id=tasks[0],
        exec_id="access",
        command_args=["touch", "/tmp/stranger"],  # noqa: S108 - in the sandbox
    )

    def answer(metadata: Mapping[str, str]) -> Status:
        return status_of(loopback_server, TaskCommandRouterStub, "TaskExecStart", start, metadata)

    def bearer(token: str) -> dict[str, str]:
        return {"authorization": f"Bearer {token}"}

    wrong = [{}, token_pair(loopback_server.token_id, loopback_server.token_secret), bearer(client), bearer(own + "x")]
    assert [answer(metadata) for metadata in wrong] == [Status.UNAUTHENTICATED] * len(wrong)
    assert answer(bearer(other)) is Status.PERMISSION_DENIED
    assert first.exec("test", "-e", "/tmp/stranger").wait() == 1  # noqa: S108 - the same
    assert answer(bearer(own)) is Status.OK


def http_status(method: str, url: str, data: bytes | None = None) -> int:
    try:
        request = urllib.request.Request(url, data=data, method=method)  # noqa: S310 - our own server's
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as response:  # noqa: S310 - the same
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_a_blob_address_is_for_one_thing(modal_client: modal.Client, raw_call: RawCall) -> None:
    with modal.Volume.ephemeral(client=modal_client) as volume:
        with volume.batch_upload() as batch:
            batch.put_file(__file__, "/f")
        request = api_pb2.VolumeGetFile2Request(volume_id=volume.object_id, path="f")
        (url,) = raw_call("VolumeGetFile2", request).get_urls
        base, _, token = url.rpartition("/")
        issued = raw_call("AuthTokenGet", api_pb2.AuthTokenGetRequest()).token
        assert http_status("GET", url) == 200
        assert http_status("PUT", url, b"other") == 403
        assert http_status("GET", f"{base}/{issued}") == 403
        assert http_status("GET", f"{base}/{token[:-2]}") == 403


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that every user of the machine may enter."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_finds_no_token(open_place: Path) -> None:
    address = ensure_server(open_place / "state", timeout_s=DEADLINE_S)
    client = make_client(address)
    try:
        create = SandboxMaker(client, "L4")
        sandbox = create(env={"WORD": "hush"})
        folder = str(address.state_dir / "sandboxes" / sandbox.object_id)
        (keeper,) = (p.pid for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [""])[-1] == folder)
        state = address.state_dir
        secrets = [state / "server.json", state / "secrets.json", Path(folder) / "env.json"]
        secrets += [Path("/proc", str(pid), "environ") for pid in (address.pid, keeper)]
        for path in (*secrets, state, state / "volumes", Path(folder)):
            assert path.exists()
            done = subprocess.run(
                ["cat", path] if path.is_file() else ["ls", path],
                check=False,
                capture_output=True,
                text=True,
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
            )
            assert done.returncode != 0
            assert "Permission denied" in done.stderr
        for pid in (address.pid, keeper):
            shown = Path("/proc", str(pid), "cmdline").read_text("utf-8")
            assert address.token_secret not in shown
            assert "hush" not in shown
        create.close()
    finally:
        client.close()
        stop_server(address.state_dir, timeout_s=DEADLINE_S)
