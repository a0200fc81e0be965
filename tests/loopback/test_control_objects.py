"""Apps, environments, images, mounts and secrets through Modal's own client, and who is let in."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import modal
import pytest
from modal.exception import AlreadyExistsError, AuthError, ConflictError, NotFoundError, UnimplementedError
from modal_proto import api_pb2

from skyrl_magic.loopback.daemon import ServerAddress
from skyrl_magic.loopback.documents import read_json
from skyrl_magic.loopback.layout import Layout
from tests.loopback.modal_internals import RawCall, inner, on_modal_loop


def unique(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def app(modal_client: modal.Client) -> modal.App:
    """A new app."""
    return modal.App.lookup(unique("app"), create_if_missing=True, client=modal_client)


# --- who is let in ----------------------------------------------------------------------------------------------------


def test_hello(modal_client: modal.Client) -> None:
    modal_client.hello()


@pytest.mark.parametrize("credentials", [("ak-wrong", "as-wrong"), None], ids=["wrong", "none"])
def test_without_the_token_nothing_is_answered(
    loopback_server: ServerAddress, credentials: tuple[str, str] | None
) -> None:
    client = modal.Client(loopback_server.url, api_pb2.CLIENT_TYPE_CLIENT, credentials)
    with client, pytest.raises(AuthError):
        client.hello()


def test_right_id_with_wrong_secret_is_refused(loopback_server: ServerAddress) -> None:
    credentials = (loopback_server.token_id, "as-wrong")
    with (
        modal.Client(loopback_server.url, api_pb2.CLIENT_TYPE_CLIENT, credentials) as client,
        pytest.raises(AuthError),
    ):
        client.hello()


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_blob_addresses_cannot_be_guessed(loopback_server: ServerAddress, method: str) -> None:
    port = read_json(Layout(loopback_server.state_dir).server_file)["blob_port"]
    token = f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJnZXQifQ.{'A' * 43}"
    for path in (token, "x", "a.b.c"):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", method=method)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=20)  # noqa: S310 - the same
        assert caught.value.code == 403
        caught.value.close()


def test_a_missing_method_says_its_name(raw_call: RawCall) -> None:
    with pytest.raises(UnimplementedError, match=r"QueueList is not implemented by skyrl_magic\.loopback"):
        raw_call("QueueList", api_pb2.QueueListRequest())


# --- apps and environments --------------------------------------------------------------------------------------------


def test_app_by_name(modal_client: modal.Client, raw_call: RawCall) -> None:
    name = unique("app")
    with pytest.raises(NotFoundError):
        modal.App.lookup(name, client=modal_client)
    app = modal.App.lookup(name, create_if_missing=True, client=modal_client)
    assert modal.App.lookup(name, client=modal_client).app_id == app.app_id
    listed = raw_call("AppList", api_pb2.AppListRequest()).apps
    assert [item.state for item in listed if item.app_id == app.app_id] == [api_pb2.APP_STATE_DEPLOYED]


def test_a_stopped_app_frees_its_name(modal_client: modal.Client, app: modal.App, raw_call: RawCall) -> None:
    raw_call("AppStop", api_pb2.AppStopRequest(app_id=str(app.app_id)))
    with pytest.raises(NotFoundError):
        modal.App.lookup(str(app.name), client=modal_client)


def test_stopping_an_app_ends_its_sandboxes(modal_client: modal.Client, app: modal.App, raw_call: RawCall) -> None:
    image = modal.Image.from_registry("some/image")
    sandbox = modal.Sandbox.create("sleep", "infinity", image=image, app=app, client=modal_client)
    listed = raw_call("AppList", api_pb2.AppListRequest()).apps
    assert [item.n_running_tasks for item in listed if item.app_id == app.app_id] == [1]
    raw_call("AppStop", api_pb2.AppStopRequest(app_id=str(app.app_id)))
    sandbox.wait(raise_on_termination=False)


def test_ephemeral_app_runs(modal_client: modal.Client, raw_call: RawCall) -> None:
    app = modal.App(unique("run"))
    with app.run(client=modal_client):
        app_id = app.app_id
    lifecycle = raw_call("AppGetLifecycle", api_pb2.AppGetLifecycleRequest(app_id=str(app_id))).lifecycle
    assert lifecycle.app_state == api_pb2.APP_STATE_STOPPED


def test_environments(modal_client: modal.Client) -> None:
    name = unique("env")
    with pytest.raises(NotFoundError):
        modal.App.lookup("a", environment_name=name, create_if_missing=True, client=modal_client)
    modal.Environment.objects.create(name, client=modal_client)
    with pytest.raises(AlreadyExistsError):
        modal.Environment.objects.create(name, client=modal_client)
    shared = unique("app")
    inside = modal.App.lookup(shared, environment_name=name, create_if_missing=True, client=modal_client)
    outside = modal.App.lookup(shared, create_if_missing=True, client=modal_client)
    assert inside.app_id != outside.app_id


def test_a_deleted_environment_takes_everything_along(modal_client: modal.Client) -> None:
    name = unique("env")
    modal.Environment.objects.create(name, client=modal_client)
    app = modal.App.lookup("a", environment_name=name, create_if_missing=True, client=modal_client)
    modal.Secret.objects.create("s", {"A": "1"}, environment_name=name, client=modal_client)
    modal.Volume.objects.create("v", environment_name=name, client=modal_client)
    sandbox = modal.Sandbox.create("sleep", "infinity", app=app, client=modal_client)
    modal.Environment.objects.delete(name, client=modal_client)
    assert sandbox.poll() == 137
    modal.Environment.objects.create(name, client=modal_client)
    assert modal.Secret.objects.list(environment_name=name, client=modal_client) == []
    assert modal.Volume.objects.list(environment_name=name, client=modal_client) == []
    with pytest.raises(NotFoundError):
        modal.App.lookup("a", environment_name=name, client=modal_client)


def test_the_default_environment_stays(modal_client: modal.Client) -> None:
    with pytest.raises(ConflictError, match="'main' is the default one"):
        modal.Environment.objects.delete("main", client=modal_client)


# --- images -----------------------------------------------------------------------------------------------------------


def built(server: ServerAddress, image: modal.Image) -> dict[str, Any]:
    """What the server keeps of an image."""
    rows: list[dict[str, Any]] = read_json(Layout(server.state_dir).table("images"))
    return next(row for row in rows if row["object_id"] == image.object_id)


def test_image_layers(loopback_server: ServerAddress, app: modal.App) -> None:
    image = (
        modal.Image.from_registry("novaskyai/some:tag")
        .env({"A": "it's $HOME", "EMPTY": "", "LINES": "a\nb"})
        .workdir("/root/my dir")
        .env({"B": "2"})
        .entrypoint(["/bin/run", "x"])
        .build(app)
    )
    row = built(loopback_server, image)
    assert row["tag"] == "novaskyai/some:tag"
    assert row["env"] == {"A": "it's $HOME", "EMPTY": "", "LINES": "a\nb", "B": "2"}
    assert row["workdir"] == "/root/my dir"
    assert row["entrypoint"] == ["/bin/run", "x"]


def test_equal_images_are_one(app: modal.App) -> None:
    first = modal.Image.from_registry("a/b:1").env({"A": "1"}).build(app)
    second = modal.Image.from_registry("a/b:1").env({"A": "1"}).build(app)
    third = modal.Image.from_registry("a/b:1").env({"A": "2"}).build(app)
    assert first.object_id == second.object_id != third.object_id


def test_debian_slim_is_accepted(loopback_server: ServerAddress, app: modal.App) -> None:
    row = built(loopback_server, modal.Image.debian_slim().build(app))
    assert row["tag"].startswith("python:")
    assert row["error"] == ""


def test_an_image_that_needs_a_build_fails_with_one_line(app: modal.App) -> None:
    image = modal.Image.from_registry("a/b:1").run_commands("echo hi").env({"A": "1"})
    with pytest.raises(modal.exception.ImageBuildError, match="builds no images, so it cannot do: RUN echo hi"):
        image.build(app)


# --- mounts -----------------------------------------------------------------------------------------------------------


def mounted(server: ServerAddress, mount_id: str) -> list[list[Any]]:
    """The rows that the server keeps of a mount."""
    rows: list[list[Any]] = read_json(server.state_dir / "mounts" / f"{mount_id}.json")
    return rows


def mount_of(app: modal.App, client: modal.Client, folder: Path) -> str:
    """Upload ``folder`` as a mount; return its id."""
    from modal.mount import Mount

    mount = inner(Mount._from_local_dir(folder, remote_path="/root/x"))

    async def load() -> str:
        from modal._load_context import LoadContext
        from modal._resolver import Resolver
        from modal._utils.async_utils import TaskContext

        async with TaskContext() as tasks:
            context = LoadContext(client=inner(client), app_id=app.app_id, task_context=tasks)
            resolver: Any = Resolver()  # type: ignore[no-untyped-call]
            await resolver.load(mount, context)
        return str(mount.object_id)

    return str(on_modal_loop(load()))


def test_mount_has_modes_and_contents(
    loopback_server: ServerAddress, modal_client: modal.Client, app: modal.App, tmp_path: Path
) -> None:
    big = os.urandom(5 * 1024 * 1024)  # over the client's limit: goes over HTTP
    for name, content in {"a.txt": b"a", "sub/run.sh": b"#!", "big.bin": big, "empty": b""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "sub/run.sh").chmod(0o755)
    mount_id = mount_of(app, modal_client, tmp_path)
    rows = {path: (sha256, mode) for path, sha256, mode in mounted(loopback_server, mount_id)}
    assert sorted(rows) == ["/root/x/a.txt", "/root/x/big.bin", "/root/x/empty", "/root/x/sub/run.sh"]
    assert rows["/root/x/sub/run.sh"][1] == 0o755
    blobs = Layout(loopback_server.state_dir).blobs
    assert (blobs / rows["/root/x/big.bin"][0]).read_bytes() == big
    assert (blobs / rows["/root/x/a.txt"][0]).read_bytes() == b"a"
    assert mount_of(app, modal_client, tmp_path) == mount_id


def test_a_content_is_taken_only_under_its_own_hash(raw_call: RawCall) -> None:
    request = api_pb2.MountPutFileRequest(data=b"evil", sha256_hex="0" * 64)
    with pytest.raises(modal.exception.InvalidError, match="expected sha256"):
        raw_call("MountPutFile", request)
    with pytest.raises(modal.exception.InvalidError, match="not a SHA-256"):
        raw_call("MountPutFile", api_pb2.MountPutFileRequest(sha256_hex="../../etc/passwd"))
    lacking = api_pb2.MountFile(filename="/x", sha256_hex="1" * 64)
    ephemeral = api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL
    create = api_pb2.MountGetOrCreateRequest(files=[lacking], object_creation_type=ephemeral)
    with pytest.raises(ConflictError, match="was not uploaded"):
        raw_call("MountGetOrCreate", create)


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_secret_by_name(loopback_server: ServerAddress, modal_client: modal.Client) -> None:
    name = unique("secret")
    with pytest.raises(NotFoundError):
        modal.Secret.from_name(name, client=modal_client).hydrate()
    modal.Secret.objects.create(name, {"KEY": "value", "OTHER": "x"}, client=modal_client)
    with pytest.raises(AlreadyExistsError):
        modal.Secret.objects.create(name, {}, client=modal_client)
    modal.Secret.from_name(name, required_keys=["KEY"], client=modal_client).hydrate()
    with pytest.raises(ConflictError, match="lacks the key"):
        modal.Secret.from_name(name, required_keys=["NONE"], client=modal_client).hydrate()
    modal.Secret.from_name(name, client=modal_client).update({"KEY": "new"})
    path = Layout(loopback_server.state_dir).table("secrets")
    row = next(row for row in read_json(path) if row["name"] == name)
    assert row["values"] == {"KEY": "new", "OTHER": "x"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert name in [secret.name for secret in modal.Secret.objects.list(client=modal_client)]
    modal.Secret.objects.delete(name, client=modal_client)
    with pytest.raises(NotFoundError):
        modal.Secret.from_name(name, client=modal_client).hydrate()


def test_secrets_from_a_dict_are_not_listed(loopback_server: ServerAddress, raw_call: RawCall) -> None:
    request = api_pb2.SecretGetOrCreateRequest(
        object_creation_type=api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL, env_dict={"A": "1"}
    )
    secret_id = raw_call("SecretGetOrCreate", request).secret_id
    listed = raw_call("SecretList", api_pb2.SecretListRequest()).items
    assert secret_id not in [item.secret_id for item in listed]
    rows = read_json(Layout(loopback_server.state_dir).table("secrets"))
    assert next(row for row in rows if row["object_id"] == secret_id)["values"] == {"A": "1"}
