"""Large contents go over HTTP; these calls hand out the addresses."""

from __future__ import annotations

import base64

from grpclib import GRPCError, Status
from modal_proto import api_pb2

from skyrl_magic.loopback.blob_endpoint import get_url, put_url
from skyrl_magic.loopback.control.calls import Calls, not_found, unary
from skyrl_magic.loopback.control.mounts import blob_id_of
from skyrl_magic.loopback.state import ServerState


def check_sha256(state: ServerState, sha256: str) -> None:
    """Refuse what is no SHA-256.

    Raises:
        GRPCError: INVALID_ARGUMENT.
    """
    try:
        state.blobs.path(sha256)
    except ValueError as error:
        raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from None


class BlobCalls(Calls):
    """``Blob*``."""

    @unary
    async def BlobCreate(self, request: api_pb2.BlobCreateRequest) -> api_pb2.BlobCreateResponse:
        """Where to upload a content. Its id is made of its SHA-256, so a repeated upload is no second blob."""
        sha256 = base64.b64decode(request.content_sha256_base64).hex()
        check_sha256(self.state, sha256)
        url = put_url(self.state, sha256)
        return api_pb2.BlobCreateResponse(
            blob_id=blob_id_of(sha256),
            blob_ids=[blob_id_of(sha256)],
            upload_urls=api_pb2.UploadUrlList(items=[url]),
        )

    @unary
    async def BlobGet(self, request: api_pb2.BlobGetRequest) -> api_pb2.BlobGetResponse:
        """Where to download a content."""
        sha256 = request.blob_id.removeprefix("bl-")
        check_sha256(self.state, sha256)
        if not self.state.blobs.claim(sha256):
            raise not_found("Blob", request.blob_id)
        size_bytes = self.state.blobs.path(sha256).stat().st_size
        return api_pb2.BlobGetResponse(download_url=get_url(self.state, sha256, 0, size_bytes))
