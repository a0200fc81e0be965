"""Volumes as objects: by name, listed, renamed, deleted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from skyrl_magic.loopback.control.calls import Calls, not_found, unary
from skyrl_magic.loopback.control.pages import page
from skyrl_magic.loopback.control.refusals import check_name
from skyrl_magic.loopback.volumes import Volume, VolumeMeta, VolumeMissingError

if TYPE_CHECKING:
    from skyrl_magic.loopback.state import ServerState

#: Without a version it is 1, as live accounts showed in 2026-08.
_VERSIONS = {
    api_pb2.VOLUME_FS_VERSION_UNSPECIFIED: 1,
    api_pb2.VOLUME_FS_VERSION_V1: 1,
    api_pb2.VOLUME_FS_VERSION_V2: 2,
}


def _metadata(meta: VolumeMeta) -> api_pb2.VolumeMetadata:
    version = api_pb2.VOLUME_FS_VERSION_V1 if meta.version == 1 else api_pb2.VOLUME_FS_VERSION_V2
    return api_pb2.VolumeMetadata(
        version=version, name=meta.name, creation_info=api_pb2.CreationInfo(created_at=meta.created_at)
    )


def find_volume(state: ServerState, volume_id: str) -> Volume:
    """The volume that a request names.

    Raises:
        GRPCError: NOT_FOUND, there is none.
    """
    try:
        return state.volumes.get(volume_id)
    except VolumeMissingError:
        raise not_found("Volume", volume_id) from None


class VolumeCalls(Calls):
    """``Volume*`` without the files."""

    @unary
    async def VolumeGetOrCreate(self, request: api_pb2.VolumeGetOrCreateRequest) -> api_pb2.VolumeGetOrCreateResponse:
        """The volume with a name, made where the request says so (version 1 unless it asks for 2)."""
        environment = self.environment(request.environment_name)
        name = request.deployment_name
        volume = self.state.volumes.find(environment, name) if name else None
        if volume is None:
            if request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
                raise not_found("Volume", name)
            check_name("Volume", name)
            volume = self.state.volumes.create(environment, name, _VERSIONS[request.version])
        elif request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            raise GRPCError(Status.ALREADY_EXISTS, f"Volume '{name}' exists already")
        metadata = _metadata(volume.meta)
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=volume.object_id, version=metadata.version, metadata=metadata
        )

    @unary
    async def VolumeGetById(self, request: api_pb2.VolumeGetByIdRequest) -> api_pb2.VolumeGetByIdResponse:
        """The volume with an id."""
        volume = find_volume(self.state, request.volume_id)
        return api_pb2.VolumeGetByIdResponse(volume_id=volume.object_id, metadata=_metadata(volume.meta))

    @unary
    async def VolumeList(self, request: api_pb2.VolumeListRequest) -> api_pb2.VolumeListResponse:
        """The named volumes of an environment, newest first."""
        environment = self.environment(request.environment_name)
        metas = [(volume.object_id, volume.meta) for volume in self.state.volumes]
        named = [(key, meta) for key, meta in metas if meta.name and meta.environment == environment]
        items = [
            api_pb2.VolumeListItem(
                label=meta.name, volume_id=volume_id, created_at=meta.created_at, metadata=_metadata(meta)
            )
            for volume_id, meta in page(named, lambda pair: pair[1].created_at, request.pagination)
        ]
        return api_pb2.VolumeListResponse(items=items, environment_name=environment)

    @unary
    async def VolumeDelete(self, request: api_pb2.VolumeDeleteRequest) -> Empty:
        """Delete a volume with its files."""
        volume = find_volume(self.state, request.volume_id)
        await asyncio.to_thread(self.state.volumes.delete, volume.object_id)
        return Empty()

    @unary
    async def VolumeRename(self, request: api_pb2.VolumeRenameRequest) -> Empty:
        """Give a volume another name."""
        volume = find_volume(self.state, request.volume_id)
        check_name("Volume", request.name)
        if self.state.volumes.find(volume.meta.environment, request.name) is not None:
            raise GRPCError(Status.ALREADY_EXISTS, f"Volume '{request.name}' exists already")
        volume.rename(request.name)
        return Empty()

    @unary
    async def VolumeHeartbeat(self, request: api_pb2.VolumeHeartbeatRequest) -> Empty:
        """A client uses an ephemeral volume."""
        find_volume(self.state, request.volume_id)
        return Empty()

    @unary
    async def VolumeReload(self, request: api_pb2.VolumeReloadRequest) -> Empty:
        """Outside a container there is nothing to reload: every read sees the last commit."""
        find_volume(self.state, request.volume_id)
        return Empty()

    @unary
    async def VolumeCommit(self, request: api_pb2.VolumeCommitRequest) -> api_pb2.VolumeCommitResponse:
        """Outside a container there is nothing to commit."""
        find_volume(self.state, request.volume_id)
        return api_pb2.VolumeCommitResponse(skip_reload=True)
