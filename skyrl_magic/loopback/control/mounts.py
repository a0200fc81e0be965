"""Mounts: local files by content. A file that the server has already is not sent again."""

from __future__ import annotations

import asyncio
import hashlib

from google.protobuf.timestamp_pb2 import Timestamp
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from skyrl_magic.loopback.blobs import DigestMismatchError
from skyrl_magic.loopback.control.calls import Calls, not_found, unary
from skyrl_magic.loopback.objects import MountFile

#: Mode of a file whose mode the client did not send.
DEFAULT_FILE_MODE = 0o644


def _now() -> Timestamp:
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp


class MountCalls(Calls):
    """``Mount*``."""

    def claim(self, sha256: str) -> bool:
        """Whether a content is there.

        Raises:
            GRPCError: INVALID_ARGUMENT, this is no SHA-256.
        """
        try:
            return self.state.blobs.claim(sha256)
        except ValueError as error:
            raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from None

    @unary
    async def MountBatchedCheckExistence(
        self, request: api_pb2.MountBatchedCheckExistenceRequest
    ) -> api_pb2.MountBatchedCheckExistenceResponse:
        """Which contents the client must send."""
        missing = [sha256 for sha256 in request.sha256_hex_hashes if not self.claim(sha256)]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing, checked_at=_now())

    @unary
    async def MountPutFile(self, request: api_pb2.MountPutFileRequest) -> api_pb2.MountPutFileResponse:
        """Take a content, from the request or from the blob that was uploaded before it.

        Without either it is the question whether the content is there.
        """
        if request.WhichOneof("data_oneof") == "data":
            try:
                await asyncio.to_thread(self.state.blobs.put, request.data, request.sha256_hex)
            except DigestMismatchError as error:
                raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from None
        elif request.data_blob_id:
            # A finished upload lies under its SHA-256 already: the blob's id carries it.
            if request.data_blob_id != blob_id_of(request.sha256_hex):
                raise GRPCError(Status.INVALID_ARGUMENT, "the blob does not have the content that was announced")
            if not self.claim(request.sha256_hex):
                raise not_found("Blob", request.data_blob_id)
        return api_pb2.MountPutFileResponse(exists=self.claim(request.sha256_hex), checked_at=_now())

    @unary
    async def MountGetOrCreate(self, request: api_pb2.MountGetOrCreateRequest) -> api_pb2.MountGetOrCreateResponse:
        """The mount of these files, or the one with this name."""
        environment = self.environment(request.environment_name)
        if request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
            mount_id = self.state.mounts.find(environment, request.deployment_name)
            if mount_id is None:
                raise not_found("Mount", request.deployment_name)
            return self._response(mount_id)
        files = [
            MountFile(file.filename, file.sha256_hex, file.mode if file.HasField("mode") else DEFAULT_FILE_MODE)
            for file in request.files
        ]
        lacking = next((file for file in files if not self.claim(file.sha256)), None)
        if lacking is not None:
            raise GRPCError(Status.FAILED_PRECONDITION, f"the content of '{lacking.path}' was not uploaded")
        mount = await asyncio.to_thread(self.state.mounts.create, files)
        if request.deployment_name:
            self.state.mounts.bind_name(environment, request.deployment_name, mount.object_id)
        return self._response(mount.object_id)

    def _response(self, mount_id: str) -> api_pb2.MountGetOrCreateResponse:
        # Equal contents have equal ids, so the id stands for the contents.
        checksum = hashlib.sha256(mount_id.encode()).hexdigest()
        return api_pb2.MountGetOrCreateResponse(
            mount_id=mount_id, handle_metadata=api_pb2.MountHandleMetadata(content_checksum_sha256_hex=checksum)
        )


def blob_id_of(sha256: str) -> str:
    """The blob id of a content."""
    return f"bl-{sha256}"
