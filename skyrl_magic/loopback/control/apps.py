"""Apps: the folder in which sandboxes are listed."""

from __future__ import annotations

import asyncio

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from skyrl_magic.loopback.control.calls import Calls, not_found, partly, unary
from skyrl_magic.loopback.control.refusals import check_name
from skyrl_magic.loopback.documents import new_id, now
from skyrl_magic.loopback.objects import App
from skyrl_magic.loopback.state import UnknownObjectError

#: How long a stopped app stays in lists, in seconds.
STOPPED_SHOWN_S = 24 * 3600.0


def _lifecycle(app: App) -> api_pb2.AppLifecycle:
    return api_pb2.AppLifecycle(
        app_state=api_pb2.AppState.ValueType(app.state), created_at=app.created_at, stopped_at=app.stopped_at
    )


def _metadata(app: App) -> api_pb2.AppHandleMetadata:
    return api_pb2.AppHandleMetadata(
        description=app.name or app.description,
        app_id=app.object_id,
        environment_name=app.environment,
        lifecycle=_lifecycle(app),
    )


class AppCalls(Calls):
    """``App*``, without functions: the loopback server runs sandboxes only."""

    def _app(self, app_id: str) -> App:
        try:
            return self.state.apps.get(app_id)
        except UnknownObjectError as error:
            raise GRPCError(Status.NOT_FOUND, str(error)) from None

    def _new(self, environment: str, state: int, name: str = "", description: str = "") -> App:
        app = App(new_id("ap"), self.environment(environment), state, name, description)
        self.state.apps.table.put(app)
        return app

    @unary
    async def AppGetOrCreate(self, request: api_pb2.AppGetOrCreateRequest) -> api_pb2.AppGetOrCreateResponse:
        """The app with a name (``modal.App.lookup``)."""
        app = self.state.apps.find(self.environment(request.environment_name), request.app_name)
        if app is None:
            if request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
                raise not_found("App", request.app_name)
            check_name("App", request.app_name)
            app = self._new(request.environment_name, api_pb2.APP_STATE_DEPLOYED, name=request.app_name)
        elif request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            raise GRPCError(Status.ALREADY_EXISTS, f"App '{app.name}' exists already")
        return api_pb2.AppGetOrCreateResponse(app_id=app.object_id, handle_metadata=_metadata(app))

    @unary
    async def AppCreate(self, request: api_pb2.AppCreateRequest) -> api_pb2.AppCreateResponse:
        """An app that lives as long as its client (``app.run()``)."""
        app = self._new(request.environment_name, request.app_state, description=request.description)
        app.tags = dict(request.tags)
        self.state.apps.table.save()
        return api_pb2.AppCreateResponse(app_id=app.object_id)

    @unary
    async def AppHeartbeat(self, request: api_pb2.AppHeartbeatRequest) -> Empty:
        """A client of an app is alive."""
        self._app(request.app_id)
        return Empty()

    @unary
    async def AppGetLayout(self, request: api_pb2.AppGetLayoutRequest) -> api_pb2.AppGetLayoutResponse:
        """The functions of an app: none."""
        self._app(request.app_id)
        return api_pb2.AppGetLayoutResponse()

    @unary
    @partly("functions and classes.")
    async def AppPublish(self, request: api_pb2.AppPublishRequest) -> api_pb2.AppPublishResponse:
        """Put an app into its running state; with functions it is refused."""
        if request.function_ids or request.class_ids:
            raise GRPCError(Status.UNIMPLEMENTED, "functions are not implemented by skyrl_magic.loopback")
        app = self._app(request.app_id)
        app.state = request.app_state
        app.name = request.name if request.app_state == api_pb2.APP_STATE_DEPLOYED else app.name
        self.state.apps.table.save()
        return api_pb2.AppPublishResponse(deployed_at=now())

    async def _stop(self, app_id: str) -> None:
        app = self._app(app_id)
        app.state = api_pb2.APP_STATE_STOPPED
        app.stopped_at = app.stopped_at or now()
        self.state.apps.table.save()
        sandboxes = self.state.sandboxes
        await asyncio.gather(*(sandboxes.terminate(sandbox, 0) for sandbox in sandboxes.living(app_id)))

    @unary
    async def AppClientDisconnect(self, request: api_pb2.AppClientDisconnectRequest) -> Empty:
        """The client of an app that is not deployed has ended."""
        await self._stop(request.app_id)
        return Empty()

    @unary
    async def AppStop(self, request: api_pb2.AppStopRequest) -> Empty:
        """Stop an app with its sandboxes; its name is free again."""
        await self._stop(request.app_id)
        return Empty()

    @unary
    async def AppGetByDeploymentName(
        self, request: api_pb2.AppGetByDeploymentNameRequest
    ) -> api_pb2.AppGetByDeploymentNameResponse:
        """The app with a name, else the last one that had it."""
        environment = self.environment(request.environment_name)
        app = self.state.apps.find(environment, request.name)
        if app is None:
            response = api_pb2.AppGetByDeploymentNameResponse(environment_name=environment)
            previous = self.state.apps.find_stopped(environment, request.name)
            if previous is not None:
                response.previous_app_id = previous.object_id
                response.lifecycle.CopyFrom(_lifecycle(previous))
            return response
        return api_pb2.AppGetByDeploymentNameResponse(
            app_id=app.object_id, environment_name=environment, lifecycle=_lifecycle(app)
        )

    @unary
    async def AppGetLifecycle(self, request: api_pb2.AppGetLifecycleRequest) -> api_pb2.AppGetLifecycleResponse:
        """When an app was made and stopped."""
        return api_pb2.AppGetLifecycleResponse(lifecycle=_lifecycle(self._app(request.app_id)))

    @unary
    async def AppGetInfo(self, request: api_pb2.AppGetInfoRequest) -> api_pb2.AppGetInfoResponse:
        """Name and state of an app."""
        return api_pb2.AppGetInfoResponse(info=_metadata(self._app(request.app_id)))

    @unary
    async def AppSetTags(self, request: api_pb2.AppSetTagsRequest) -> Empty:
        """Replace an app's tags."""
        self._app(request.app_id).tags = dict(request.tags)
        self.state.apps.table.save()
        return Empty()

    @unary
    async def AppGetTags(self, request: api_pb2.AppGetTagsRequest) -> api_pb2.AppGetTagsResponse:
        """An app's tags."""
        return api_pb2.AppGetTagsResponse(tags=self._app(request.app_id).tags)

    @unary
    async def AppList(self, request: api_pb2.AppListRequest) -> api_pb2.AppListResponse:
        """The apps of an environment that live or were stopped lately."""
        environment = self.environment(request.environment_name)
        items = []
        for app in self.state.apps.table:
            if app.environment != environment or (app.stopped_at and app.stopped_at < now() - STOPPED_SHOWN_S):
                continue
            item = api_pb2.AppListResponse.AppListItem(
                app_id=app.object_id,
                name=app.name,
                description=app.name or app.description,
                state=_lifecycle(app).app_state,
                created_at=app.created_at,
                stopped_at=app.stopped_at,
                n_running_tasks=len(self.state.sandboxes.living(app.object_id)),
                metadata=_metadata(app),
            )
            items.append(item)
        return api_pb2.AppListResponse(apps=items)
