"""What Modal refuses, the local server refuses: asked through raw calls, as the client keeps some of it to itself."""

from __future__ import annotations

import concurrent.futures
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import modal
import pytest
from modal.exception import AuthError, InvalidError, NotFoundError, ResourceExhaustedError
from modal_proto import api_pb2

from skyrl_magic.loopback.control.refusals import GPU_COUNTS
from skyrl_magic.loopback.daemon import ServerAddress
from tests.loopback.answering import answering
from tests.loopback.making import DEADLINE_S, SandboxMaker, run, until
from tests.loopback.modal_internals import RawCall


@pytest.fixture
def ask(create: SandboxMaker, raw_call: RawCall) -> Any:
    """Ask for a sandbox with the fields of its definition; nothing is to come of it."""
    image_id = create.image.build(create.app).object_id
    v2 = create.gpu is None
    name = "SandboxCreateV2" if v2 else "SandboxCreate"
    kind = api_pb2.SandboxCreateV2Request if v2 else api_pb2.SandboxCreateRequest

    def ask(**fields: Any) -> None:
        definition = api_pb2.Sandbox(image_id=image_id, **fields)
        raw_call(name, kind(app_id=str(create.app.app_id), definition=definition))

    return ask


def gpu(name: str, count: int = 1) -> api_pb2.Resources:
    return api_pb2.Resources(gpu_config=api_pb2.GPUConfig(gpu_type=name, count=count))


def volumes(*paths: str) -> list[api_pb2.VolumeMount]:
    return [api_pb2.VolumeMount(volume_id="vo-1", mount_path=path) for path in paths]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "a" * 65}, "at most 64"),
        ({"name": "no space"}, "Invalid Sandbox name"),
        ({"name": "ap-" + "a" * 22}, "cannot look like an app's id"),
        ({"resources": gpu("B300")}, "Invalid GPU type: 'B300'"),
        ({"resources": gpu("H100,A100")}, "Invalid GPU type: 'H100,A100'"),
        ({"resources": gpu("A10", 5)}, "1 to 4"),
        ({"resources": gpu("H100", 9)}, "1 to 8"),
        ({"resources": gpu("B200+", 0)}, "1 to 8"),
        ({"timeout_secs": 24 * 3600 + 1}, "at most 86400 s"),
        ({"volume_mounts": volumes("/")}, "none of /, /root, /tmp"),
        ({"volume_mounts": volumes("/root")}, "none of /, /root, /tmp"),
        ({"volume_mounts": volumes("/tmp")}, "none of /, /root, /tmp"),  # noqa: S108  (a container's)
        ({"volume_mounts": volumes("data")}, "absolute"),
        ({"volume_mounts": volumes("/a/../b")}, "canonical"),
        ({"volume_mounts": volumes("/a", "/b")}, "multiple locations"),
        ({"entrypoint_args": ["echo", "x" * 2**16]}, "65536 bytes"),
        ({"resources": api_pb2.Resources(memory_mb=2048, memory_mb_max=1024)}, "memory limit is lower"),
        ({"resources": api_pb2.Resources(milli_cpu=2000, milli_cpu_max=1000)}, "CPU limit is lower"),
    ],
    ids=lambda value: value.replace("/", "_") if isinstance(value, str) else "",
)
def test_a_sandbox_that_modal_refuses(ask: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        ask(**fields)


@pytest.mark.parametrize("name", ["b200+", "A100-80GB", "H100!", "a10g"])
def test_gpus_that_modal_has(modal_client: modal.Client, name: str) -> None:
    maker = SandboxMaker(modal_client, f"{name}:{GPU_COUNTS[name.upper()]}")
    try:
        assert maker("true").object_id
    finally:
        maker.close()


def test_a_list_of_gpus_is_refused_before_it_is_sent(modal_client: modal.Client) -> None:
    with pytest.raises(InvalidError, match="list of GPUs"):
        SandboxMaker(modal_client, ["H100", "A100"])("true")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a" * 65, "no space", "ä", "ap-" + "0" * 22])
@pytest.mark.parametrize("kind", ["Volume", "Secret", "App"])
def test_names_that_no_object_can_have(raw_call: RawCall, kind: str, name: str) -> None:
    field = "app_name" if kind == "App" else "deployment_name"
    request = getattr(api_pb2, f"{kind}GetOrCreateRequest")(object_creation_type=1, **{field: name})
    with pytest.raises(InvalidError, match=f"Invalid {kind} name"):
        raw_call(f"{kind}GetOrCreate", request)


def test_a_volume_is_not_renamed_to_such_a_name(modal_client: modal.Client, raw_call: RawCall) -> None:
    name = f"v-{uuid.uuid4().hex}"
    volume = modal.Volume.from_name(name, create_if_missing=True, client=modal_client).hydrate()
    with pytest.raises(InvalidError, match="Invalid Volume name"):
        raw_call("VolumeRename", api_pb2.VolumeRenameRequest(volume_id=volume.object_id, name="no space"))
    modal.Volume.objects.delete(name, client=modal_client)


def test_the_words_of_an_exec_have_64_kib(sandbox: modal.Sandbox) -> None:
    with pytest.raises(InvalidError, match="65536"):
        sandbox.exec("echo", "x" * 2**16)
    # The client counts characters and the server bytes: two for each of these.
    with pytest.raises(InvalidError, match="at most 65536 bytes"):
        sandbox.exec("echo", "ä" * 2**15)


# --- how the end of a sandbox is told ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("not found", NotFoundError, "container ID ta-.* not found"),
        ("finished", InvalidError, "Task has already finished with status GENERIC_STATUS_TERMINATED"),
        ("unavailable", NotFoundError, "The Sandbox is unavailable"),
    ],
)
def test_three_answers_of_a_sandbox_that_has_ended(
    create: SandboxMaker, loopback_server: ServerAddress, name: str, error: type[Exception], text: str
) -> None:
    sandbox = create()
    run(sandbox, "true")
    sandbox.terminate()
    with answering(loopback_server.state_dir, dead_exec=name), pytest.raises(error, match=text):
        sandbox.exec("true")


# --- rates, quotas, tokens --------------------------------------------------------------------------------------------


def test_a_throttled_call_waits_and_goes_on(
    modal_client: modal.Client, loopback_server: ServerAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up() -> object:
        return modal.App.lookup("throttled", create_if_missing=True, client=modal_client)

    with ThreadPoolExecutor(1) as pool:
        with answering(loopback_server.state_dir, throttled=["AppGetOrCreate"], retry_after_s=0.1):
            monkeypatch.setenv("MODAL_MAX_THROTTLE_WAIT", "1")
            with pytest.raises(ResourceExhaustedError, match="too many requests"):
                look_up()
            monkeypatch.delenv("MODAL_MAX_THROTTLE_WAIT")
            waiting = pool.submit(look_up)
            with pytest.raises(concurrent.futures.TimeoutError):
                waiting.result(0.5)
        assert waiting.result(DEADLINE_S)


def test_a_throttled_list_of_files_is_refused_at_once(
    modal_client: modal.Client, loopback_server: ServerAddress
) -> None:
    name = f"v-{uuid.uuid4().hex}"
    volume = modal.Volume.from_name(name, create_if_missing=True, version=1, client=modal_client).hydrate()
    with (
        answering(loopback_server.state_dir, throttled=["VolumeListFiles"]),
        pytest.raises(ResourceExhaustedError, match="too many requests"),
    ):
        volume.listdir("/")
    modal.Volume.objects.delete(name, client=modal_client)


def test_a_spend_cap_is_not_tried_again(create: SandboxMaker, loopback_server: ServerAddress) -> None:
    with answering(loopback_server.state_dir, spend_cap=True), pytest.raises(ResourceExhaustedError, match="spend"):
        create()


def test_a_stream_is_refused_when_its_token_expires(create: SandboxMaker, loopback_server: ServerAddress) -> None:
    with answering(loopback_server.state_dir, router_token_s=2):
        sandbox = create()
        # modal 1.6.4 renews a token that is refused at once, and gives up a stream that is refused later.
        with pytest.raises(AuthError, match="expired"):
            sandbox.exec("bash", "-c", "echo begun; sleep 60").stdout.read()
        assert run(sandbox, "echo again")[1] == "again\n"


# --- lists ------------------------------------------------------------------------------------------------------------


def test_an_index_that_lags(create: SandboxMaker, loopback_server: ServerAddress) -> None:
    sandbox = create(tags={"who": "a"})

    def listed(tag: str) -> list[str]:
        found = modal.Sandbox.list(app_id=str(create.app.app_id), tags={"who": tag}, client=create.client)
        return [one.object_id for one in found]

    with answering(loopback_server.state_dir, lists_filtered=False):
        assert listed("b") == [sandbox.object_id]
    with answering(loopback_server.state_dir, unlisted_s=3600):
        assert listed("a") == []
    until(lambda: listed("a") == [sandbox.object_id])
    assert listed("b") == []
