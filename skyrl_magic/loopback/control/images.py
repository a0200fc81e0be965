"""Images: accepted and remembered, never built. The container shows this machine's files."""

from __future__ import annotations

import hashlib

from grpclib import GRPCError, Status
from grpclib.server import Stream
from modal_proto import api_pb2

from skyrl_magic.loopback.control.calls import Calls, partly, unary
from skyrl_magic.loopback.control.environments import IMAGE_BUILDER_VERSION
from skyrl_magic.loopback.dockerfiles import NotBuildableError, apply_commands
from skyrl_magic.loopback.documents import id_from_digest
from skyrl_magic.loopback.objects import Image
from skyrl_magic.loopback.state import UnknownObjectError


def _result(image: Image) -> api_pb2.GenericResult:
    if image.error:
        return api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_FAILURE, exception=image.error)
    return api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)


def _metadata(image: Image) -> api_pb2.ImageMetadata:
    metadata = api_pb2.ImageMetadata(image_builder_version=IMAGE_BUILDER_VERSION)
    if image.workdir:
        metadata.workdir = image.workdir
    return metadata


class ImageCalls(Calls):
    """``Image*``."""

    def _image(self, image_id: str) -> Image:
        try:
            return self.state.images.get(image_id)
        except UnknownObjectError as error:
            raise GRPCError(Status.NOT_FOUND, str(error)) from None

    @unary
    @partly("anything but FROM, ENV, WORKDIR, ENTRYPOINT and CMD; the container shows this machine's files.")
    async def ImageGetOrCreate(self, request: api_pb2.ImageGetOrCreateRequest) -> api_pb2.ImageGetOrCreateResponse:
        """The image with this definition, at once; a definition that needs a build fails with one line."""
        definition = request.image
        digest = hashlib.sha256(definition.SerializeToString(deterministic=True)).digest()
        image = self.state.images.table.get(id_from_digest("im", digest))
        if image is None:
            image = Image(id_from_digest("im", digest))
            # Modal's own base images (``Image.debian_slim``) come as steps too; only their result matters.
            own = request.namespace == api_pb2.DEPLOYMENT_NAMESPACE_GLOBAL
            self._define(image, definition, ignore_builds=own)
            self.state.images.table.put(image)
        return api_pb2.ImageGetOrCreateResponse(
            image_id=image.object_id, result=_result(image), metadata=_metadata(image)
        )

    def _define(self, image: Image, definition: api_pb2.Image, *, ignore_builds: bool) -> None:
        bases = {base.docker_tag: self._image(base.image_id) for base in definition.base_images}
        commands = list(definition.dockerfile_commands)
        if ignore_builds:
            commands = [line for line in commands if not line.startswith(("RUN ", "COPY "))]
        try:
            apply_commands(image, commands, bases, dict(definition.build_args), self._entrypoint)
        except NotBuildableError as error:
            image.error = str(error)
        image.error = image.error or self.state.pretend.image(image.tag).build_error
        if definition.HasField("build_function"):
            image.error = "the local backend builds no images, so it cannot do: Image.run_function"

    def _entrypoint(self, tag: str) -> list[str]:
        return list(self.state.pretend.image(tag).entrypoint)

    @unary
    async def ImageFromId(self, request: api_pb2.ImageFromIdRequest) -> api_pb2.ImageFromIdResponse:
        """The image with this id."""
        image = self._image(request.image_id)
        return api_pb2.ImageFromIdResponse(image_id=image.object_id, metadata=_metadata(image))

    async def ImageJoinStreaming(
        self, stream: Stream[api_pb2.ImageJoinStreamingRequest, api_pb2.ImageJoinStreamingResponse]
    ) -> None:
        """Answer the wait for a build: it is over."""
        request = await stream.recv_message()
        if request is None:
            raise GRPCError(Status.INVALID_ARGUMENT, "the request is empty")
        image = self._image(request.image_id)
        response = api_pb2.ImageJoinStreamingResponse(result=_result(image), metadata=_metadata(image), eof=True)
        await stream.send_message(response)
