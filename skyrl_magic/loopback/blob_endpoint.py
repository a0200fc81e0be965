"""The HTTP endpoint for large contents: PUT a blob or a volume's block, GET a range of one.

A URL carries a signed token that allows exactly one operation on one content for an hour; there is nothing to list
or to guess.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from aiohttp import web

from skyrl_magic.loopback.blobs import BlobStore, DigestMismatchError

if TYPE_CHECKING:
    from skyrl_magic.loopback.state import ServerState

#: Size in bytes in which contents are read from disk and from the wire.
CHUNK_BYTES = 1024 * 1024


def put_url(state: ServerState, sha256: str) -> str:
    """A URL to upload the content with this SHA-256."""
    return f"{state.blob_url}/{state.auth.issue(f'put:{sha256}')}"


def get_url(state: ServerState, sha256: str, start: int, length: int) -> str:
    """A URL to download ``length`` bytes of a content from byte ``start`` on; what is missing at its end are zeros."""
    return f"{state.blob_url}/{state.auth.issue(f'get:{sha256}:{start}:{length}')}"


class BlobEndpoint:
    """The handlers of the endpoint."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._blobs: BlobStore = state.blobs

    def application(self) -> web.Application:
        """The aiohttp application, to be served on 127.0.0.1."""
        app = web.Application()
        app.router.add_route("HEAD", "/", self.head)
        app.router.add_put("/{token}", self.put)
        app.router.add_get("/{token}", self.get, allow_head=False)
        return app

    async def head(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Say that the server is there, to who is about to use it (``daemon.find_server``)."""
        self._state.activity.touch()
        return web.Response()

    def _allowed(self, request: web.Request, operation: str) -> list[str]:
        self._state.activity.touch()
        subject = self._state.auth.subject(request.match_info["token"]) or ""
        name, *values = subject.split(":")
        if name != operation:
            raise web.HTTPForbidden(text="this address is not valid (any more)")
        return values

    async def put(self, request: web.Request) -> web.Response:
        """Store the body; 400 if it is not the announced content."""
        (sha256,) = self._allowed(request, "put")
        writer = self._blobs.writer()
        try:
            async for chunk in request.content.iter_chunked(CHUNK_BYTES):
                await asyncio.to_thread(writer.write, chunk)
            writer.commit(expected_sha256=sha256)
        except DigestMismatchError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        except OSError as error:
            raise web.HTTPInsufficientStorage(text=f"cannot store it: {error.strerror}") from None
        finally:
            writer.discard()
        # The client compares the ETag with its own MD5; of a volume's block it sends the body back with the file.
        return web.Response(text=sha256, headers={"ETag": f'"{writer.md5_hex}"'})

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Send the range."""
        sha256, start, length = self._allowed(request, "get")
        if not self._blobs.claim(sha256):
            raise web.HTTPNotFound(text="the content is gone")
        response = web.StreamResponse(headers={"Content-Length": length})
        response.content_type = "application/octet-stream"
        await response.prepare(request)
        async for chunk in self._read(sha256, int(start), int(length)):
            await response.write(chunk)
        await response.write_eof()
        return response

    async def _read(self, sha256: str, start: int, length: int) -> AsyncIterator[bytes]:
        with self._blobs.path(sha256).open("rb") as file:
            file.seek(start)
            while length > 0 and (chunk := await asyncio.to_thread(file.read, min(CHUNK_BYTES, length))):
                length -= len(chunk)
                yield chunk
        # Blocks are stored without their trailing zeros.
        while length > 0:
            chunk = bytes(min(CHUNK_BYTES, length))
            length -= len(chunk)
            yield chunk
