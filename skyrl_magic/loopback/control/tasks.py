"""Tasks: sandboxes under the name that the ``modal container`` command knows them by."""

from __future__ import annotations

from grpclib import GRPCError, Status
from modal_proto import api_pb2

from skyrl_magic.loopback.control.calls import Calls, not_found, partly, unary
from skyrl_magic.loopback.control.results import result_of
from skyrl_magic.loopback.runtime.sandbox import Sandbox

#: How long ending a sandbox may take before its call returns, in seconds: its processes are dead after one at most,
#: the rest is the last commit of its volumes.
END_WAIT_S = 30.0


def task_info(sandbox: Sandbox) -> api_pb2.TaskInfo:
    """The sandbox as a task."""
    meta = sandbox.meta
    return api_pb2.TaskInfo(
        id=sandbox.task_id,
        sandbox_id=meta.sandbox_id,
        enqueued_at=meta.created_at,
        started_at=0 if sandbox.queued else meta.created_at,
        finished_at=sandbox.exit.ended_at if sandbox.exit is not None else 0,
        result=result_of(sandbox),
        gpu_type=meta.gpu,
    )


class TaskCalls(Calls):
    """``Task*`` and ``ContainerStop``."""

    def _task(self, task_id: str) -> Sandbox:
        sandbox = self.state.sandboxes.by_task(task_id)
        if sandbox is None:
            raise not_found("Task", task_id)
        return sandbox

    @unary
    async def TaskList(self, request: api_pb2.TaskListRequest) -> api_pb2.TaskListResponse:
        """The running sandboxes of an app, or of all apps of an environment."""
        environment = self.environment(request.environment_name)
        tasks = []
        for sandbox in self.state.sandboxes:
            app = self.state.apps.table.get(sandbox.meta.app_id)
            in_place = app is not None and app.environment == environment
            wanted = sandbox.meta.app_id == request.app_id if request.app_id else in_place
            if not sandbox.is_alive or sandbox.queued or not wanted:
                continue
            stats = api_pb2.TaskStats(
                task_id=sandbox.meta.task_id,
                app_id=sandbox.meta.app_id,
                app_description="" if app is None else app.name or app.description,
                started_at=sandbox.meta.created_at,
                enqueued_at=sandbox.meta.created_at,
            )
            tasks.append(stats)
        return api_pb2.TaskListResponse(tasks=tasks)

    @unary
    async def TaskGetInfo(self, request: api_pb2.TaskGetInfoRequest) -> api_pb2.TaskGetInfoResponse:
        """When the sandbox of a task began and how it ended."""
        sandbox = self._task(request.task_id)
        return api_pb2.TaskGetInfoResponse(app_id=sandbox.meta.app_id, info=task_info(sandbox))

    @unary
    @partly("graceful stops, which are for functions.")
    async def ContainerStop(self, request: api_pb2.ContainerStopRequest) -> api_pb2.ContainerStopResponse:
        """End the sandbox of a task; when this returns its processes are dead and its volumes committed."""
        if request.graceful:
            message = "a sandbox has no inputs to finish: graceful stops are for functions only"
            raise GRPCError(Status.FAILED_PRECONDITION, message)
        sandbox = self._task(request.task_id)
        if sandbox.is_alive:
            await self.state.sandboxes.terminate(sandbox, END_WAIT_S)
        return api_pb2.ContainerStopResponse()
