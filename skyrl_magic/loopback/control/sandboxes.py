"""Sandboxes, through both families of calls: V1 where a GPU was asked for, V2 else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from grpclib.server import Stream
from modal_proto import api_pb2

from skyrl_magic.loopback.control.calls import Calls, not_found, partly, unary
from skyrl_magic.loopback.control.creation import checked_tags, create
from skyrl_magic.loopback.control.results import result_of
from skyrl_magic.loopback.control.stdin import stdin_errors
from skyrl_magic.loopback.control.tasks import END_WAIT_S, task_info
from skyrl_magic.loopback.control.throttle import CreationRate
from skyrl_magic.loopback.runtime.sandbox import V1, V2, Sandbox
from skyrl_magic.loopback.state import ServerState

#: How many sandboxes one page of a list holds.
PAGE_COUNT = 100
#: What a new sandbox cannot have.
CREATE_LACKS = (
    "tunnels, network file systems, buckets, proxies, lists of addresses, probes and a terminal of the main process "
    "are refused; CPU, memory, cloud, region and `idle_timeout` have no effect; a GPU is there if the machine has one."
)


def _metadata(sandbox: Sandbox) -> api_pb2.SandboxHandleMetadata:
    return api_pb2.SandboxHandleMetadata(app_id=sandbox.meta.app_id, result=result_of(sandbox))


def _tags(sandbox: Sandbox) -> list[api_pb2.SandboxTag]:
    return [api_pb2.SandboxTag(tag_name=name, tag_value=value) for name, value in sandbox.meta.tags.items()]


def _resources(gpu: str, asked: Mapping[str, int]) -> api_pb2.ResourceInfo:
    values = {
        name: api_pb2.ResourceInfo.ResourceValue(value=asked.get(name, 0), is_default=not asked.get(name))
        for name in ("memory_mb", "milli_cpu")
    }
    return api_pb2.ResourceInfo(
        gpu_type=gpu,
        memory_mb=values["memory_mb"],
        milli_cpu=values["milli_cpu"],
        memory_mb_max=asked.get("memory_mb_max", 0),
        milli_cpu_max=asked.get("milli_cpu_max", 0),
    )


def _info(sandbox: Sandbox) -> api_pb2.SandboxInfo:
    meta = sandbox.meta
    return api_pb2.SandboxInfo(
        id=meta.sandbox_id,
        created_at=meta.created_at,
        task_info=task_info(sandbox),
        app_id=meta.app_id,
        tags=_tags(sandbox),
        name=meta.name,
        image_id=meta.image_id,
        timeout_secs=int(meta.timeout_s),
        resource_info=_resources(meta.gpu, meta.resources),
        metadata=_metadata(sandbox),
    )


class SandboxCalls(Calls):
    """``Sandbox*`` and the calls that lead to a sandbox's command router."""

    def __init__(self, state: ServerState) -> None:
        super().__init__(state)
        self._stdin_index: dict[str, int] = {}
        self._creations: dict[str, asyncio.Task[Sandbox]] = {}
        self._rate = CreationRate()

    def _sandbox(self, sandbox_id: str) -> Sandbox:
        sandbox = self.state.sandboxes.get(sandbox_id)
        if sandbox is None:
            raise not_found("Sandbox", sandbox_id)
        return sandbox

    def _access(self, sandbox: Sandbox) -> api_pb2.CommandRouterAccess:
        token = self.state.auth.issue(sandbox.meta.task_id, self.state.answers.now().router_token_s)
        return api_pb2.CommandRouterAccess(jwt=token, url=self.state.grpc_url)

    # --- create -----------------------------------------------------------------------------------------------------

    @partly(CREATE_LACKS)
    async def SandboxCreate(self, stream: Stream[api_pb2.SandboxCreateRequest, api_pb2.SandboxCreateResponse]) -> None:
        """Start a V1 sandbox."""
        sandbox = await self._create(stream, V1)
        await stream.send_message(
            api_pb2.SandboxCreateResponse(sandbox_id=sandbox.meta.sandbox_id, metadata=_metadata(sandbox))
        )

    @partly(CREATE_LACKS)
    async def SandboxCreateV2(
        self, stream: Stream[api_pb2.SandboxCreateV2Request, api_pb2.SandboxCreateV2Response]
    ) -> None:
        """Start a V2 sandbox."""
        sandbox = await self._create(stream, V2)
        response = api_pb2.SandboxCreateV2Response(
            sandbox_id=sandbox.meta.sandbox_id,
            task_id=sandbox.meta.task_id,
            metadata=_metadata(sandbox),
            command_router_access=self._access(sandbox),
        )
        await stream.send_message(response)

    async def _create(self, stream: Stream[Any, Any], version: int) -> Sandbox:
        """Create what the client asks for, once: after a cut connection it sends the same request again."""
        request = await stream.recv_message()
        if request is None:
            raise GRPCError(Status.INVALID_ARGUMENT, "the request is empty")
        sources = request.secret_sources if version == V2 else ()
        metadata: Mapping[str, object] = stream.metadata or {}
        key = str(metadata.get("x-idempotency-key") or id(stream))
        task = self._creations.get(key)
        if task is None:
            self._admit()
            creation = create(self.state, request, version, sources)
            task = self._creations[key] = asyncio.create_task(creation)
            loop = asyncio.get_running_loop()
            task.add_done_callback(lambda _: loop.call_later(60, self._creations.pop, key, None))
        return await asyncio.shield(task)

    def _admit(self) -> None:
        """Refuse a creation that is one too many. Raises GRPCError (RESOURCE_EXHAUSTED)."""
        if self.state.answers.now().spend_cap:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, "the workspace has reached its spend limit")
        self._rate.take()

    # --- find -------------------------------------------------------------------------------------------------------

    def _by_name(self, request: api_pb2.SandboxGetFromNameRequest, version: int) -> api_pb2.SandboxGetFromNameResponse:
        environment = self.state.environments.find(request.environment_name)
        app = None if environment is None else self.state.apps.find(environment.name, request.app_name)
        if app is None:
            raise not_found("App", request.app_name)
        sandbox = self.state.sandboxes.by_name(app.object_id, request.sandbox_name, ended=request.include_terminated)
        if sandbox is None or sandbox.meta.version != version:
            raise not_found("Sandbox", request.sandbox_name)
        return api_pb2.SandboxGetFromNameResponse(sandbox_id=sandbox.meta.sandbox_id, metadata=_metadata(sandbox))

    @unary
    async def SandboxGetFromName(
        self, request: api_pb2.SandboxGetFromNameRequest
    ) -> api_pb2.SandboxGetFromNameResponse:
        """The running V1 sandbox of an app with this name."""
        return self._by_name(request, V1)

    @unary
    async def SandboxGetFromNameV2(
        self, request: api_pb2.SandboxGetFromNameRequest
    ) -> api_pb2.SandboxGetFromNameResponse:
        """The running V2 sandbox of an app with this name; the client then asks for a V1 one."""
        return self._by_name(request, V2)

    def _list(self, request: api_pb2.SandboxListRequest, versions: tuple[int, ...]) -> api_pb2.SandboxListResponse:
        environment = self.state.environments.find(request.environment_name)
        name = "" if environment is None else environment.name
        apps = {app.object_id for app in self.state.apps.table if app.environment == name}
        answers = self.state.answers.now()
        newest_s = time.time() - answers.unlisted_s
        wanted = {tag.tag_name: tag.tag_value for tag in request.tags} if answers.lists_filtered else {}
        found = [
            sandbox
            for sandbox in self.state.sandboxes
            if sandbox.meta.version in versions
            and (sandbox.meta.app_id == request.app_id if request.app_id else sandbox.meta.app_id in apps)
            and (sandbox.is_alive or request.include_finished)
            and (not request.before_timestamp or sandbox.meta.created_at < request.before_timestamp)
            and sandbox.meta.created_at <= newest_s
            and wanted.items() <= sandbox.meta.tags.items()
        ]
        return api_pb2.SandboxListResponse(sandboxes=[_info(sandbox) for sandbox in found[:PAGE_COUNT]])

    @unary
    async def SandboxList(self, request: api_pb2.SandboxListRequest) -> api_pb2.SandboxListResponse:
        """V1 sandboxes, the newest first."""
        return self._list(request, (V1,))

    @unary
    async def SandboxListV2(self, request: api_pb2.SandboxListRequest) -> api_pb2.SandboxListResponse:
        """All sandboxes, the newest first."""
        return self._list(request, (V1, V2))

    # --- tags -------------------------------------------------------------------------------------------------------

    @unary
    async def SandboxTagsGet(self, request: api_pb2.SandboxTagsGetRequest) -> api_pb2.SandboxTagsGetResponse:
        """A sandbox's tags."""
        return api_pb2.SandboxTagsGetResponse(tags=_tags(self._sandbox(request.sandbox_id)))

    @unary
    async def SandboxTagsSet(self, request: api_pb2.SandboxTagsSetRequest) -> Empty:
        """Replace a sandbox's tags."""
        sandbox = self._sandbox(request.sandbox_id)
        sandbox.meta.tags = checked_tags(request.tags)
        sandbox.save()
        return Empty()

    # --- reach ------------------------------------------------------------------------------------------------------

    @unary
    async def SandboxGetTaskId(self, request: api_pb2.SandboxGetTaskIdRequest) -> api_pb2.SandboxGetTaskIdResponse:
        """The task of a sandbox, by which the command router knows it; empty while it waits for its machine."""
        sandbox = self._sandbox(request.sandbox_id)
        return api_pb2.SandboxGetTaskIdResponse(task_id=sandbox.task_id, task_result=result_of(sandbox))

    @unary
    async def TaskGetCommandRouterAccess(
        self, request: api_pb2.TaskGetCommandRouterAccessRequest
    ) -> api_pb2.TaskGetCommandRouterAccessResponse:
        """Address and token of the command router of a V1 sandbox."""
        sandbox = self.state.sandboxes.by_task(request.task_id)
        if sandbox is None:
            raise not_found("Task", request.task_id)
        access = self._access(sandbox)
        return api_pb2.TaskGetCommandRouterAccessResponse(jwt=access.jwt, url=access.url)

    @unary
    async def SandboxGetCommandRouterAccess(
        self, request: api_pb2.SandboxGetCommandRouterAccessRequest
    ) -> api_pb2.SandboxGetCommandRouterAccessResponse:
        """Address and token of the command router of a V2 sandbox."""
        if request.task_id:
            sandbox = self.state.sandboxes.by_task(request.task_id)
        else:
            sandbox = self.state.sandboxes.get(request.sandbox_id)
        if sandbox is None:
            raise not_found("Sandbox", request.task_id or request.sandbox_id)
        access = self._access(sandbox)
        return api_pb2.SandboxGetCommandRouterAccessResponse(jwt=access.jwt, url=access.url)

    @unary
    @partly("there are none, as no sandbox may ask for them.")
    async def SandboxGetTunnels(self, request: api_pb2.SandboxGetTunnelsRequest) -> api_pb2.SandboxGetTunnelsResponse:
        """A sandbox's tunnels."""
        self._sandbox(request.sandbox_id)
        return api_pb2.SandboxGetTunnelsResponse(
            result=api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)
        )

    # --- end --------------------------------------------------------------------------------------------------------

    @unary
    async def SandboxWait(self, request: api_pb2.SandboxWaitRequest) -> api_pb2.SandboxWaitResponse:
        """How a sandbox ended, or nothing if it has not within ``timeout`` seconds."""
        sandbox = self._sandbox(request.sandbox_id)
        await sandbox.wait(request.timeout)
        return api_pb2.SandboxWaitResponse(result=result_of(sandbox), metadata=_metadata(sandbox))

    @unary
    async def SandboxTerminate(self, request: api_pb2.SandboxTerminateRequest) -> api_pb2.SandboxTerminateResponse:
        """End a sandbox; when this returns its processes are dead, its volumes committed and its name is free."""
        sandbox = self._sandbox(request.sandbox_id)
        if (existing := result_of(sandbox)) is not None:
            return api_pb2.SandboxTerminateResponse(existing_result=existing)
        answers = self.state.answers.now()
        if answers.killed_as:
            sandbox.told_end = answers.killed_as, answers.killed_because
        await self.state.sandboxes.terminate(sandbox, END_WAIT_S)
        return api_pb2.SandboxTerminateResponse()

    @unary
    async def SandboxStdinWrite(self, request: api_pb2.SandboxStdinWriteRequest) -> api_pb2.SandboxStdinWriteResponse:
        """Write to the main process's stdin; the index counts the writes of one client, from 1."""
        sandbox = self._sandbox(request.sandbox_id)
        if request.index > self._stdin_index.get(request.sandbox_id, 0):
            self._stdin_index[request.sandbox_id] = request.index
            with stdin_errors():
                await sandbox.write_stdin(None, request.input, eof=request.eof)
        return api_pb2.SandboxStdinWriteResponse()

    SandboxTagsGetV2 = SandboxTagsGet
    SandboxTagsSetV2 = SandboxTagsSet
    SandboxGetTaskIdV2 = SandboxGetTaskId
    SandboxGetTunnelsV2 = SandboxGetTunnels
    SandboxWaitV2 = SandboxWait
    SandboxTerminateV2 = SandboxTerminate
