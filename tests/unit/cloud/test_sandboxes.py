from __future__ import annotations

import hashlib
import os
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath

import modal
import modal.config
import pytest
from modal_proto import api_pb2

from skyrl_magic.cloud.sandboxes import ModalBackend, ModalSandbox, _ignore_others
from skyrl_magic.cloud.streams import ModalStream
from skyrl_magic.cloud.throttling import MAX_WAIT_S, PHASE, bound_waiting
from skyrl_magic.core.cancel import Cancel
from skyrl_magic.core.errors import BackendError, BackendUnavailable, SessionLost
from skyrl_magic.core.gpus import NO_GPU
from skyrl_magic.core.ports import ByteStream, SandboxRequest, Upload
from skyrl_magic.core.spec import SessionSpec
from skyrl_magic.loopback.daemon import ServerAddress
from tests.loopback.answering import answering
from tests.loopback.making import SandboxMaker
from tests.loopback.modal_internals import inner, on_modal_loop

DEADLINE_S = 60.0


@pytest.fixture
def make(modal_client: modal.Client) -> Iterator[SandboxMaker]:
    """Makes sandboxes that end with the test."""
    maker = SandboxMaker(modal_client, None)
    yield maker
    maker.close()


@pytest.fixture
def sandbox(make: SandboxMaker) -> ModalSandbox:
    return ModalSandbox(make("sleep", "infinity"), make.app_name)


def read_all(stream: ByteStream) -> bytes:
    parts = []
    while data := stream.read():
        parts.append(data)
    return b"".join(parts)


# --- streams ----------------------------------------------------------------------------------------------------------


def test_bytes_go_in_and_out_as_they_are(sandbox: ModalSandbox) -> None:
    data = bytes(range(256)) * 100
    stream = sandbox.exec(["head", "-c", str(len(data))])
    stream.write(data[:10])
    stream.write(data[10:])
    assert read_all(stream) == data
    stream.close()


def test_one_write_may_be_larger_than_modals_buffer(sandbox: ModalSandbox) -> None:
    data = os.urandom(1 << 20) * 20
    stream = sandbox.exec(["bash", "-c", f"head -c {len(data)} | sha256sum"])
    stream.write(data)
    assert read_all(stream).split()[0].decode() == hashlib.sha256(data).hexdigest()
    stream.close()


def test_closing_frees_a_reader_and_ends_the_process(sandbox: ModalSandbox) -> None:
    stream = sandbox.exec(["bash", "-c", "cat; echo gone > /tmp/gone"])
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(stream.read)
        stream.close()
        assert read.result(DEADLINE_S) == b""
    stream.close()  # again
    with pytest.raises(BackendUnavailable, match="closed"):
        stream.write(b"x")
    waiting = sandbox.exec(["bash", "-c", "until [ -e /tmp/gone ]; do sleep 0.05; done; cat /tmp/gone"])
    assert read_all(waiting) == b"gone\n"


def test_a_process_that_ends_is_the_end_of_the_stream(sandbox: ModalSandbox) -> None:
    stream = sandbox.exec(["echo", "last words"])
    assert read_all(stream) == b"last words\n"
    assert isinstance(stream, ModalStream)


def test_a_container_that_ends_frees_a_reader(sandbox: ModalSandbox) -> None:
    stream = sandbox.exec(["sleep", "infinity"])
    ended = threading.Event()

    def read() -> None:
        try:
            while stream.read():
                pass
        except (BackendUnavailable, SessionLost):
            pass
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    sandbox.terminate()
    assert ended.wait(DEADLINE_S)


# --- sandboxes --------------------------------------------------------------------------------------------------------


def test_a_sandboxs_life(make: SandboxMaker) -> None:
    sandbox = ModalSandbox(make("bash", "-c", "echo why >&2; read x", tags={"owner": "me"}), make.app_name)
    assert (sandbox.poll(), sandbox.last_output(), sandbox.tags()) == (None, "", {"owner": "me"})
    sandbox.terminate()
    sandbox.terminate()  # again
    assert sandbox.poll() not in (None, 0)
    with pytest.raises(SessionLost, match="the container has ended"):
        sandbox.exec(["true"])


def test_the_last_output_says_why_it_ended(make: SandboxMaker) -> None:
    made = make("bash", "-c", "echo why >&2; exit 3")
    made.wait(raise_on_termination=False)
    sandbox = ModalSandbox(made, make.app_name)
    assert (sandbox.poll(), sandbox.last_output()) == (3, "why\n")


def test_found_by_name_and_listed_by_tags(modal_client: modal.Client, make: SandboxMaker) -> None:
    backend = ModalBackend("local", modal_client)
    assert backend.find(make.app_name, "box") is None
    made = make("sleep", "infinity", name="box", tags={"a": "1", "b": "2", "made by": make.app_name})
    found = backend.find(make.app_name, "box")
    assert found is not None
    assert (found.id, found.app) == (made.object_id, make.app_name)
    key = {"made by": make.app_name}
    assert [s.id for s in backend.list({**key, "a": "1"})] == [made.object_id]
    assert list(backend.list({**key, "a": "2"})) == []
    found.terminate()
    assert backend.find(make.app_name, "box") is None
    assert list(backend.list(key)) == []


def test_the_sandboxes_of_every_app_are_listed_and_no_app_is_made(
    modal_client: modal.Client, make: SandboxMaker
) -> None:
    other = SandboxMaker(modal_client, make.gpu)
    try:
        tags = {"made by": make.app_name}
        ids = {make("sleep", "infinity", tags=tags).object_id, other("sleep", "infinity", tags=tags).object_id}
        apps = modal.Environment.from_context(client=modal_client).apps
        before = len(apps.list())
        found = ModalBackend("local", modal_client).list(tags)
        assert {sandbox.id for sandbox in found} == ids
        assert {sandbox.app for sandbox in found} == {make.app_name, other.app_name}
        assert len(apps.list()) == before
    finally:
        other.close()


def test_an_index_that_lags_lists_nobody_elses_sandboxes(
    modal_client: modal.Client, make: SandboxMaker, loopback_server: ServerAddress
) -> None:
    mine = make("sleep", "infinity", tags={"made by": make.app_name, "owner": "me"})
    make("sleep", "infinity", tags={"made by": make.app_name, "owner": "you"})
    make("sleep", "infinity")
    backend = ModalBackend("local", modal_client)
    with answering(loopback_server.state_dir, lists_filtered=False):
        assert [s.id for s in backend.list({"made by": make.app_name, "owner": "me"})] == [mine.object_id]


@pytest.fixture
def wanted(tmp_path: Path) -> SandboxRequest:
    """A container of an app of its own."""
    agent = tmp_path / "agent.pyz"
    agent.touch()
    app = f"app-{uuid.uuid4().hex}"
    spec = SessionSpec("local", NO_GPU, "image", f"{app}-data", app, ray=False)
    return SandboxRequest("box", spec, 300, {}, lambda _: ["sleep", "infinity"], agent)


def test_a_throttled_creation_is_said_and_goes_on(
    modal_client: modal.Client,
    loopback_server: ServerAddress,
    wanted: SandboxRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    throttled = threading.Event()
    phases: list[str] = []

    def on_phase(phase: str) -> None:
        phases.append(phase)
        if phase == PHASE:
            throttled.set()

    with ThreadPoolExecutor(1) as pool:
        with answering(loopback_server.state_dir, throttled=["SandboxCreateV2"], retry_after_s=0.1):
            creating = pool.submit(ModalBackend("local", modal_client).create, wanted, on_phase, Cancel())
            assert throttled.wait(DEADLINE_S)
            assert not creating.done()
        creating.result(DEADLINE_S).terminate()
    assert phases == ["image", "checkout", "container", PHASE]
    assert "Received" not in caplog.text


def test_waiting_for_a_throttled_creation_is_bounded(
    modal_client: modal.Client,
    loopback_server: ServerAddress,
    wanted: SandboxRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bound_waiting()
    assert modal.config.config.get("max_throttle_wait") == MAX_WAIT_S
    monkeypatch.setenv("MODAL_MAX_THROTTLE_WAIT", "1")
    with (
        answering(loopback_server.state_dir, throttled=["SandboxCreateV2"], retry_after_s=0.2),
        pytest.raises(BackendUnavailable, match="starting session box: too many requests; Modal throttled it"),
    ):
        ModalBackend("local", modal_client).create(wanted, lambda _: None, Cancel())


def test_a_spend_cap_is_one_line_with_what_to_do(
    modal_client: modal.Client, loopback_server: ServerAddress, wanted: SandboxRequest
) -> None:
    with (
        answering(loopback_server.state_dir, spend_cap=True),
        pytest.raises(
            BackendError, match=r"has reached its spend limit; nothing was started: raise .*modal.com/settings"
        ),
    ):
        ModalBackend("local", modal_client).create(wanted, lambda _: None, Cancel())


# --- uploads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absolute", [False, True])
def test_what_is_not_in_the_upload_is_ignored(absolute: bool, tmp_path: Path) -> None:  # noqa: FBT001
    ignore = _ignore_others(Upload(tmp_path, {"a/b/c.py", "top.txt"}, b"{}"))

    def ignored(path: str) -> bool:
        return ignore(tmp_path / path if absolute else Path(PurePosixPath(path)))

    assert not any(map(ignored, ("a", "a/b", "a/b/c.py", "top.txt", ".")))
    assert all(map(ignored, ("a/b/d.py", "b", "a/c.py", "top.txt.bak", "c.py")))


def test_memory_that_is_asked_for_is_a_request_and_a_limit(modal_client: modal.Client, wanted: SandboxRequest) -> None:
    spec = replace(wanted.spec, memory_mib=2048, cpu=2.0)
    sandbox = ModalBackend("local", modal_client).create(replace(wanted, spec=spec), lambda _: None, Cancel())
    app_id = str(modal.App.lookup(spec.app, client=modal_client).app_id)
    try:

        async def listed() -> list[api_pb2.SandboxInfo]:
            request = api_pb2.SandboxListRequest(app_id=app_id)
            return list((await inner(modal_client)._stub.SandboxListV2(request)).sandboxes)

        (info,) = on_modal_loop(listed())
        asked = info.resource_info
        assert (asked.memory_mb.value, asked.memory_mb_max) == (2048, 2048)
        assert (asked.milli_cpu.value, asked.milli_cpu_max) == (2000, 0)
    finally:
        sandbox.terminate()
