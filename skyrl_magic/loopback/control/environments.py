"""Environments, the workspace, and what a client asks first."""

from __future__ import annotations

import asyncio
import getpass

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from skyrl_magic.loopback.control.calls import Calls, not_found, partly, unary
from skyrl_magic.loopback.control.tasks import END_WAIT_S
from skyrl_magic.loopback.objects import DEFAULT_ENVIRONMENT, Environment

#: Image builder version whose ``Image.from_registry`` needs no build step (the client's newer ones split layers).
IMAGE_BUILDER_VERSION = "2025.06"
WORKSPACE_NAME = "loopback"
_GPUS = ("t4", "l4", "a10g", "l40s", "a100_40gb", "a100_80gb", "rtx_pro_6000", "h100", "h200", "b200")
#: Modal's names for prices, in US dollars a unit and hour.
_RATES = (
    "cpu_hour_cost",
    "cpu_hour_cost_sandbox",
    "mem_gib_hour_cost",
    "mem_gib_hour_cost_sandbox",
    *(f"gpu_hour_cost_{name}" for name in _GPUS),
)


def _metadata(environment: Environment) -> api_pb2.EnvironmentMetadata:
    settings = api_pb2.EnvironmentSettings(image_builder_version=IMAGE_BUILDER_VERSION)
    return api_pb2.EnvironmentMetadata(name=environment.name, settings=settings)


def _list_item(environment: Environment) -> api_pb2.EnvironmentListItem:
    return api_pb2.EnvironmentListItem(
        name=environment.name,
        environment_id=environment.object_id,
        created_at=environment.created_at,
        default=environment.name == DEFAULT_ENVIRONMENT,
    )


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "user"


class EnvironmentCalls(Calls):
    """``Environment*``, ``Workspace*``, ``ClientHello``, ``AuthTokenGet``, ``TokenInfoGet``."""

    @unary
    async def ClientHello(self, request: Empty) -> api_pb2.ClientHelloResponse:  # noqa: ARG002
        """Answer ``modal.Client.hello``."""
        return api_pb2.ClientHelloResponse(image_builder_version=IMAGE_BUILDER_VERSION)

    @unary
    async def AuthTokenGet(self, request: api_pb2.AuthTokenGetRequest) -> api_pb2.AuthTokenGetResponse:  # noqa: ARG002
        """A token for the calls that go to an input plane."""
        return api_pb2.AuthTokenGetResponse(token=self.state.auth.issue("client"))

    @unary
    async def TokenInfoGet(self, request: api_pb2.TokenInfoGetRequest) -> api_pb2.TokenInfoGetResponse:  # noqa: ARG002
        """Whom the token belongs to."""
        return api_pb2.TokenInfoGetResponse(
            token_id=self.state.auth.token_id,
            workspace_id="ac-loopback",
            workspace_name=WORKSPACE_NAME,
            user_identity=api_pb2.UserIdentity(user_id=self.state.auth.user_id, username=_user_name()),
        )

    @unary
    async def WorkspaceNameLookup(self, request: Empty) -> api_pb2.WorkspaceNameLookupResponse:  # noqa: ARG002
        """The name of the one workspace."""
        return api_pb2.WorkspaceNameLookupResponse(workspace_name=WORKSPACE_NAME, username=WORKSPACE_NAME)

    @unary
    @partly("every price is 0.")
    async def WorkspaceBillingRates(
        self,
        request: api_pb2.WorkspaceBillingRatesRequest,  # noqa: ARG002
    ) -> api_pb2.WorkspaceBillingRatesResponse:
        """What sandboxes cost here."""
        rates = dict.fromkeys(_RATES, "0")
        return api_pb2.WorkspaceBillingRatesResponse(rates=rates, formatted="Everything is free here.")

    @unary
    async def WorkspaceSettings(self, request: Empty) -> api_pb2.WorkspaceSettingsResponse:  # noqa: ARG002
        """The workspace's defaults."""
        return api_pb2.WorkspaceSettingsResponse(
            default_environment_name=DEFAULT_ENVIRONMENT, image_builder_version=IMAGE_BUILDER_VERSION
        )

    @unary
    async def EnvironmentGetOrCreate(
        self, request: api_pb2.EnvironmentGetOrCreateRequest
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        """The environment with a name; the empty name is the default one."""
        environment = self.state.environments.find(request.deployment_name)
        if environment is None:
            if request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
                raise not_found("Environment", request.deployment_name)
            environment = self.state.environments.create(request.deployment_name)
        elif request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            raise GRPCError(Status.ALREADY_EXISTS, f"Environment '{environment.name}' exists already")
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id=environment.object_id, metadata=_metadata(environment)
        )

    @unary
    async def EnvironmentCreate(self, request: api_pb2.EnvironmentCreateRequest) -> Empty:
        """A new environment."""
        if self.state.environments.find(request.name) is not None:
            raise GRPCError(Status.ALREADY_EXISTS, f"Environment '{request.name}' exists already")
        self.state.environments.create(request.name)
        return Empty()

    def _changeable(self, name: str) -> Environment:
        environment = self.state.environments.find(name)
        if environment is None:
            raise not_found("Environment", name)
        if environment.name == DEFAULT_ENVIRONMENT:
            message = f"Environment '{DEFAULT_ENVIRONMENT}' is the default one: it can neither be deleted nor renamed"
            raise GRPCError(Status.FAILED_PRECONDITION, message)
        return environment

    @unary
    async def EnvironmentDelete(self, request: api_pb2.EnvironmentDeleteRequest) -> Empty:
        """Delete an environment with all that is in it; its apps' sandboxes are ended first."""
        environment = self._changeable(request.name)
        apps = [app for app in self.state.apps.table if app.environment == environment.name]
        sandboxes = [sandbox for app in apps for sandbox in self.state.sandboxes.living(app.object_id)]
        for sandbox in sandboxes:
            if sandbox.link is not None:
                sandbox.link.terminate()
        await asyncio.gather(*(sandbox.wait(END_WAIT_S) for sandbox in sandboxes))
        for app in apps:
            self.state.apps.table.remove(app.object_id)
        for secret in self.state.secrets.table:
            if secret.environment == environment.name:
                self.state.secrets.table.remove(secret.object_id)
        for volume in [volume for volume in self.state.volumes if volume.meta.environment == environment.name]:
            await asyncio.to_thread(self.state.volumes.delete, volume.object_id)
        self.state.environments.table.remove(environment.object_id)
        return Empty()

    @unary
    @partly("a web suffix or an image builder version.")
    async def EnvironmentUpdate(self, request: api_pb2.EnvironmentUpdateRequest) -> api_pb2.EnvironmentListItem:
        """Give an environment another name."""
        environment = self._changeable(request.current_name)
        if request.HasField("web_suffix") or request.image_builder_version or not request.HasField("name"):
            message = "only the name of an environment can be changed in skyrl_magic.loopback"
            raise GRPCError(Status.UNIMPLEMENTED, message)
        name = request.name.value
        if self.state.environments.find(name) is not None:
            raise GRPCError(Status.ALREADY_EXISTS, f"Environment '{name}' exists already")
        old, environment.name = environment.name, name
        self.state.environments.table.save()
        for app in self.state.apps.table:
            app.environment = name if app.environment == old else app.environment
        self.state.apps.table.save()
        for secret in self.state.secrets.table:
            secret.environment = name if secret.environment == old else secret.environment
        self.state.secrets.table.save()
        for volume in self.state.volumes:
            if volume.meta.environment == old:
                volume.rename(volume.meta.name, environment=name)
        return _list_item(environment)

    @unary
    async def EnvironmentList(self, request: Empty) -> api_pb2.EnvironmentListResponse:  # noqa: ARG002
        """All environments."""
        items = [_list_item(environment) for environment in self.state.environments.table]
        return api_pb2.EnvironmentListResponse(items=items)
