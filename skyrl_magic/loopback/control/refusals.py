"""What Modal refuses of a request; the server is as strict. docs/modal_limits.md has the evidence for each."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence

from grpclib import GRPCError, Status
from modal_proto import api_pb2

#: An object's name, and the app ids that no name may look like (modal 1.6.4: ``modal._utils.name_utils``).
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,64}")
_APP_ID = re.compile(r"ap-[a-zA-Z0-9]{22}")
#: GPU types without regard to case, and how many of one a container can have (modal.com/docs/guide/gpu).
MAX_GPUS = 8
GPU_COUNTS: dict[str, int] = {
    **dict.fromkeys(("T4", "L4", "L40S", "A100", "A100-40GB", "A100-80GB", "RTX-PRO-6000"), MAX_GPUS),
    **dict.fromkeys(("H100", "H100!", "H200", "B200", "B200+"), MAX_GPUS),
    **dict.fromkeys(("A10", "A10G"), 4),
}
#: A sandbox's longest life, in seconds.
MAX_TIMEOUT_S = 24 * 3600
#: All words of a command together, in bytes (modal 1.6.4: ``ARG_MAX_BYTES``).
MAX_ARGUMENTS_BYTES = 2**16
#: Where no volume may be (modal 1.6.4: ``modal._utils.mount_utils``).
_NO_MOUNT_POINTS = ("/", "/root", "/tmp")  # noqa: S108  (a container's)


def refused(message: str) -> GRPCError:
    """The error that Modal's client turns into ``InvalidError``."""
    return GRPCError(Status.INVALID_ARGUMENT, message)


def check_name(kind: str, name: str) -> None:
    """Refuse a name that no object can have.

    Args:
        kind: of the object, as the message says it: ``Volume``.
        name: its name; an object without one has an empty one, which is not checked.

    Raises:
        GRPCError: INVALID_ARGUMENT.
    """
    if name and (not _NAME.fullmatch(name) or _APP_ID.fullmatch(name)):
        raise refused(
            f"Invalid {kind} name: '{name}'. Names have at most 64 alphanumeric characters, dashes, periods and "
            "underscores, and cannot look like an app's id."
        )


def check_sandbox(definition: api_pb2.Sandbox) -> None:
    """Refuse a sandbox that Modal would not start.

    Raises:
        GRPCError: INVALID_ARGUMENT.
    """
    check_name("Sandbox", definition.name)
    check_arguments(definition.entrypoint_args)
    check_gpu(definition.resources.gpu_config)
    check_mounts(definition.volume_mounts)
    if definition.timeout_secs > MAX_TIMEOUT_S:
        raise refused(f"the timeout of a sandbox is at most {MAX_TIMEOUT_S} s, not {definition.timeout_secs} s")
    resources = definition.resources
    for what, most, request in (
        ("memory", resources.memory_mb_max, resources.memory_mb),
        ("CPU", resources.milli_cpu_max, resources.milli_cpu),
    ):
        if most and most < request:
            raise refused(f"the {what} limit is lower than the request: {most} < {request}")


def check_arguments(arguments: Iterable[str]) -> None:
    """Refuse a command that is too long. Raises GRPCError (INVALID_ARGUMENT)."""
    size_bytes = sum(len(word.encode()) for word in arguments)
    if size_bytes > MAX_ARGUMENTS_BYTES:
        raise refused(f"a command's words have at most {MAX_ARGUMENTS_BYTES} bytes together, not {size_bytes}")


def check_gpu(gpu: api_pb2.GPUConfig) -> None:
    """Refuse a GPU type that Modal has not (``B300``, a list), or too many. Raises GRPCError (INVALID_ARGUMENT)."""
    if not gpu.gpu_type:
        return
    most = GPU_COUNTS.get(gpu.gpu_type.upper())
    if most is None:
        raise refused(f"Invalid GPU type: '{gpu.gpu_type}'. Types: {', '.join(GPU_COUNTS)}")
    if not 1 <= gpu.count <= most:
        raise refused(f"Invalid GPU count: {gpu.count}. A container has 1 to {most} of {gpu.gpu_type}.")


def check_mounts(mounts: Sequence[api_pb2.VolumeMount]) -> None:
    """Refuse volumes where none may be, and one volume at two paths. Raises GRPCError (INVALID_ARGUMENT)."""
    for mount in mounts:
        path = mount.mount_path
        if path in _NO_MOUNT_POINTS or not path.startswith("/") or posixpath.normpath(path) != path:
            others = ", ".join(_NO_MOUNT_POINTS)
            raise refused(f"Volume {path} must be a canonical, absolute path, and none of {others}")
    ids = [mount.volume_id for mount in mounts]
    if len(set(ids)) < len(ids):
        raise refused("The same Volume cannot be mounted in multiple locations")
