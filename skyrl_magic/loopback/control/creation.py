"""From Modal's definition of a sandbox to a running one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from grpclib import GRPCError, Status
from modal_proto import api_pb2

from skyrl_magic.loopback.control.environment import secret_env
from skyrl_magic.loopback.control.refusals import check_sandbox
from skyrl_magic.loopback.objects import Image
from skyrl_magic.loopback.runtime.host import HostError
from skyrl_magic.loopback.runtime.rootfs import RootfsError
from skyrl_magic.loopback.runtime.sandbox import Sandbox, SandboxError
from skyrl_magic.loopback.runtime.sandboxes import NameTakenError, NoMachineError, SandboxRequest
from skyrl_magic.loopback.runtime.spec import VolumeMount
from skyrl_magic.loopback.state import ServerState, UnknownObjectError
from skyrl_magic.loopback.volumes import VolumeMissingError

#: What is asked for beside a GPU.
_RESOURCES = ("milli_cpu", "milli_cpu_max", "memory_mb", "memory_mb_max")
#: Modal's default, in seconds.
DEFAULT_TIMEOUT_S = 300.0
#: How many tags Modal takes on a sandbox, by two projects that run on it and keep to that.
MAX_TAGS = 10


async def create(
    state: ServerState, request: Any, version: int, secret_sources: Iterable[api_pb2.SecretSource]
) -> Sandbox:
    """Start the sandbox of a ``SandboxCreateRequest`` or ``SandboxCreateV2Request``.

    Raises:
        GRPCError: It cannot be had; the message is one line for the user.
    """
    try:
        state.apps.get(request.app_id)
        return await state.sandboxes.create(_request(state, request, version, secret_sources))
    except NameTakenError as error:
        message = f"a sandbox with the name '{error}' is already running in this app"
        raise GRPCError(Status.ALREADY_EXISTS, message) from None
    except NoMachineError as error:
        raise GRPCError(Status.RESOURCE_EXHAUSTED, str(error)) from None
    except (UnknownObjectError, VolumeMissingError) as error:
        raise GRPCError(Status.NOT_FOUND, str(error)) from None
    except RootfsError as error:
        raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from None
    except (HostError, SandboxError) as error:
        raise GRPCError(Status.FAILED_PRECONDITION, str(error)) from None
    except OSError as error:  # not INTERNAL: the client would try it again and again
        raise GRPCError(Status.RESOURCE_EXHAUSTED, f"the sandbox could not be created: {error}") from None


def _request(
    state: ServerState, request: Any, version: int, secret_sources: Iterable[api_pb2.SecretSource]
) -> SandboxRequest:
    definition: api_pb2.Sandbox = request.definition
    check_sandbox(definition)
    _refuse_missing_features(definition)
    image = _image(state, definition.image_id)
    pretended = state.pretend.image(image.tag)
    blocked = definition.block_network or (
        definition.network_access.network_access_type == api_pb2.NetworkAccess.NetworkAccessType.BLOCKED
    )
    return SandboxRequest(
        version=version,
        app_id=request.app_id,
        name=definition.name,
        tags=checked_tags(request.tags),
        image_id=definition.image_id,
        gpu=definition.resources.gpu_config.gpu_type,
        resources={name: getattr(definition.resources, name) for name in _RESOURCES},
        gpu_count=definition.resources.gpu_config.count,
        arguments=[*image.entrypoint, *(definition.entrypoint_args or image.command)],
        env={**image.env, **secret_env(state, definition.secret_ids, secret_sources)},
        workdir=definition.workdir or image.workdir,
        timeout_s=definition.timeout_secs or DEFAULT_TIMEOUT_S,
        network=not blocked,
        files=[
            (file.path, state.blobs.path(file.sha256), file.mode)
            for mount_id in definition.mount_ids
            for file in _mount_files(state, mount_id)
        ],
        volumes=[_volume_mount(state, mount) for mount in definition.volume_mounts],
        broken=pretended.broken,
        python=pretended.python,
    )


def checked_tags(tags: Iterable[api_pb2.SandboxTag]) -> dict[str, str]:
    """A sandbox's tags. Raises GRPCError where they are more than Modal takes."""
    found = {tag.tag_name: tag.tag_value for tag in tags}
    if len(found) > MAX_TAGS:
        message = f"a sandbox can have at most {MAX_TAGS} tags; these are {len(found)}"
        raise GRPCError(Status.INVALID_ARGUMENT, message)
    return found


def _volume_mount(state: ServerState, mount: api_pb2.VolumeMount) -> VolumeMount:
    version = state.volumes.get(mount.volume_id).meta.version
    return VolumeMount(mount.volume_id, mount.mount_path, mount.sub_path, mount.read_only, version)


def _image(state: ServerState, image_id: str) -> Image:
    if not image_id:
        return Image("")
    image = state.images.get(image_id)
    if image.error:
        raise GRPCError(Status.FAILED_PRECONDITION, image.error)
    return image


def _mount_files(state: ServerState, mount_id: str) -> Iterable[Any]:
    try:
        return state.mounts.get(mount_id).files
    except KeyError:
        raise GRPCError(Status.NOT_FOUND, f"mount {mount_id} is not known to this server") from None


def _refuse_missing_features(definition: api_pb2.Sandbox) -> None:
    features = {
        "network file systems": definition.nfs_mounts,
        "cloud bucket mounts": definition.cloud_bucket_mounts,
        "tunnels (open ports)": definition.open_ports.ports,
        "proxies": definition.proxy_id,
        "readiness probes": definition.HasField("readiness_probe"),
        "lists of addresses to be reached": _limits_addresses(definition),
        "terminals for the main process": definition.pty_info.enabled,
    }
    missing = [name for name, value in features.items() if value]
    if missing:
        message = f"{', '.join(missing)}: not implemented by skyrl_magic.loopback"
        raise GRPCError(Status.UNIMPLEMENTED, message)


def _limits_addresses(definition: api_pb2.Sandbox) -> bool:
    kind = definition.network_access.network_access_type
    policies = (definition.HasField("outbound_policy"), definition.HasField("experimental_outbound_policy"))
    return kind == api_pb2.NetworkAccess.NetworkAccessType.ALLOWLIST or any(policies)
