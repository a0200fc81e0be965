"""The command router: commands in sandboxes, their streams by byte offset, their ends."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from grpclib import GRPCError, Status
from grpclib.server import Stream
from modal_proto import api_pb2
from modal_proto import task_command_router_pb2 as router_pb2
from modal_proto.task_command_router_grpc import TaskCommandRouterBase

from skyrl_magic.loopback.answers import FINISHED, NOT_FOUND, UNAVAILABLE
from skyrl_magic.loopback.auth import Grant
from skyrl_magic.loopback.control.calls import partly, unary, unimplemented
from skyrl_magic.loopback.control.environment import secret_env
from skyrl_magic.loopback.control.refusals import check_arguments
from skyrl_magic.loopback.control.results import result_of
from skyrl_magic.loopback.control.stdin import stdin_errors
from skyrl_magic.loopback.runtime.exec import ExecProcess, ExecRequest, Terminal
from skyrl_magic.loopback.runtime.link import KeeperLostError, KeeperRefusedError
from skyrl_magic.loopback.runtime.output import OffsetGoneError, PipeReader
from skyrl_magic.loopback.runtime.sandbox import Sandbox
from skyrl_magic.loopback.state import ServerState

T = TypeVar("T")

#: How long one call may wait for a command's end, in seconds: the client gives up after 60 and asks again.
WAIT_S = 50.0
#: What the token of the request at hand opens; the server sets it before the method is called.
GRANT: contextvars.ContextVar[Grant] = contextvars.ContextVar("grant")
#: How Modal answers an exec in a sandbox that has ended, by the names that ``answers.Answers.dead_exec`` takes.
_DEAD = {
    NOT_FOUND: (Status.NOT_FOUND, "container ID {task_id} not found"),
    FINISHED: (Status.FAILED_PRECONDITION, "Task has already finished with status {status}"),
    UNAVAILABLE: (Status.NOT_FOUND, "The Sandbox is unavailable. This Sandbox may have already shut down."),
}


class RouterCalls:
    """The methods of the router that sessions need."""

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self._stdin_streams: dict[str, asyncio.Task[None]] = {}

    def _sandbox(self, task_id: str) -> Sandbox:
        if task_id != GRANT.get().task_id:
            raise GRPCError(Status.PERMISSION_DENIED, f"the router token is not one for task {task_id}")
        sandbox = self.state.sandboxes.by_task(task_id)
        if sandbox is None:
            raise GRPCError(Status.NOT_FOUND, f"task {task_id} not found")
        return sandbox

    def _exec(self, task_id: str, exec_id: str) -> ExecProcess:
        process = self._sandbox(task_id).execs.get(exec_id)
        if process is None:
            raise GRPCError(Status.NOT_FOUND, f"exec {exec_id} not found: the sandbox or its server has ended since")
        return process

    @unary
    @partly("in sidecar containers.")
    async def TaskExecStart(self, request: router_pb2.TaskExecStartRequest) -> router_pb2.TaskExecStartResponse:
        """Run a command; sent again with the same id it is the same command."""
        sandbox = self._sandbox(request.task_id)
        if request.container_id:
            raise GRPCError(Status.UNIMPLEMENTED, "sidecar containers are not implemented by skyrl_magic.loopback")
        check_arguments(request.command_args)
        await sandbox.begun.wait()
        try:
            sandbox.start_exec(request.exec_id, self._exec_request(sandbox, request))
        except KeeperLostError:
            raise self._dead(sandbox) from None
        except OSError as error:
            if not sandbox.is_alive:
                raise self._dead(sandbox) from None
            raise GRPCError(Status.INTERNAL, f"the command could not be started: {error}") from None
        return router_pb2.TaskExecStartResponse()

    def _dead(self, sandbox: Sandbox) -> GRPCError:
        status, text = _DEAD[self.state.answers.now().dead_exec]
        result = result_of(sandbox)
        name = "UNKNOWN" if result is None else api_pb2.GenericResult.GenericStatus.Name(result.status)
        return GRPCError(status, text.format(task_id=sandbox.meta.task_id, status=name))

    def _exec_request(self, sandbox: Sandbox, request: router_pb2.TaskExecStartRequest) -> ExecRequest:
        env = {**sandbox.env, **secret_env(self.state, request.secret_ids, request.secret_sources), **request.env}
        return ExecRequest(
            arguments=list(request.command_args),
            env=env,
            workdir=request.workdir or sandbox.meta.workdir,
            stdout=request.stdout_config == router_pb2.TASK_EXEC_STDOUT_CONFIG_PIPE,
            stderr=request.stderr_config == router_pb2.TASK_EXEC_STDERR_CONFIG_PIPE,
            merge_stderr=request.stderr_config == router_pb2.TASK_EXEC_STDERR_CONFIG_STDOUT,
            timeout_s=request.timeout_secs if request.HasField("timeout_secs") else None,
            terminal=_terminal(request),
        )

    async def TaskExecStdioRead(
        self, stream: Stream[router_pb2.TaskExecStdioReadRequest, router_pb2.TaskExecStdioReadResponse]
    ) -> None:
        """Stream a command's stdout or stderr from a byte offset to its end."""
        request = await _first(stream)
        process = self._exec(request.task_id, request.exec_id)
        is_stdout = request.file_descriptor == router_pb2.TASK_EXEC_STDIO_FILE_DESCRIPTOR_STDOUT
        reader = process.stdout if is_stdout else process.stderr
        if reader is not None:
            await _while_granted(_send_output(stream, reader, request.offset))

    @unary
    async def TaskExecStdinWrite(
        self, request: router_pb2.TaskExecStdinWriteRequest
    ) -> router_pb2.TaskExecStdinWriteResponse:
        """Write to a command's stdin at a byte offset; what was written before is skipped."""
        process = self._exec(request.task_id, request.exec_id)
        with stdin_errors():
            await process.stdin.write(request.offset, request.data, eof=request.eof)
        return router_pb2.TaskExecStdinWriteResponse()

    async def TaskExecStdinWriteStream(
        self, stream: Stream[router_pb2.TaskExecStdinWriteStreamRequest, router_pb2.TaskExecStdinWriteStreamResponse]
    ) -> None:
        """Write a stream of chunks; a newer stream, or a question for the status, ends this one."""
        start = (await _first(stream)).start
        process = self._exec(start.task_id, start.exec_id)
        await self._evict(start.exec_id)
        task = asyncio.create_task(_receive_stdin(stream, process, start.offset))
        self._stdin_streams[start.exec_id] = task
        try:
            await _while_granted(asyncio.wait({task}))
            if task.cancelled():
                raise GRPCError(Status.ABORTED, "another stream writes this command's stdin")
            task.result()
        finally:
            task.cancel()
            if self._stdin_streams.get(start.exec_id) is task:
                del self._stdin_streams[start.exec_id]
        await stream.send_message(router_pb2.TaskExecStdinWriteStreamResponse())

    async def _evict(self, exec_id: str) -> None:
        task = self._stdin_streams.pop(exec_id, None)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    @unary
    async def TaskExecStdinStatus(
        self, request: router_pb2.TaskExecStdinStatusRequest
    ) -> router_pb2.TaskExecStdinStatusResponse:
        """How much stdin was written; a stream that still writes is ended first, so that the number stays true."""
        process = self._exec(request.task_id, request.exec_id)
        await self._evict(request.exec_id)
        return router_pb2.TaskExecStdinStatusResponse(
            num_bytes_written=process.stdin.written_bytes, closed=process.stdin.closed
        )

    @unary
    async def TaskExecPoll(self, request: router_pb2.TaskExecPollRequest) -> router_pb2.TaskExecPollResponse:
        """The command's exit status, or nothing while it runs."""
        process = self._exec(request.task_id, request.exec_id)
        if not process.exit.done():
            return router_pb2.TaskExecPollResponse()
        return router_pb2.TaskExecPollResponse(**_exit_status(process.exit.result()))

    @unary
    async def TaskExecWait(self, request: router_pb2.TaskExecWaitRequest) -> router_pb2.TaskExecWaitResponse:
        """The command's exit status, as soon as it ends."""
        process = self._exec(request.task_id, request.exec_id)
        try:
            code = await asyncio.wait_for(asyncio.shield(process.exit), WAIT_S)
        except asyncio.TimeoutError:
            raise GRPCError(Status.DEADLINE_EXCEEDED, "the command still runs") from None
        return router_pb2.TaskExecWaitResponse(**_exit_status(code))

    @unary
    async def TaskReloadVolumes(
        self, request: router_pb2.TaskReloadVolumesRequest
    ) -> router_pb2.TaskReloadVolumesResponse:
        """Bring what others committed into the sandbox's volumes; refused while files on them are open."""
        sandbox = self._sandbox(request.task_id)
        await sandbox.begun.wait()
        if sandbox.link is None:
            raise GRPCError(Status.NOT_FOUND, "the sandbox has ended")
        try:
            await sandbox.link.ask("reload")
        except KeeperRefusedError as error:
            raise GRPCError(Status.FAILED_PRECONDITION, str(error)) from None
        except KeeperLostError as error:
            raise GRPCError(Status.NOT_FOUND, str(error)) from None
        return router_pb2.TaskReloadVolumesResponse()

    async def SandboxStdioReadV2(
        self, stream: Stream[router_pb2.SandboxStdioReadV2Request, router_pb2.SandboxStdioReadV2Response]
    ) -> None:
        """Stream the main process's stdout or stderr from a byte offset to its end, also after it."""
        request = await _first(stream)
        sandbox = self._sandbox(request.task_id)
        is_stdout = request.file_descriptor == router_pb2.SANDBOX_STDIO_FILE_DESCRIPTOR_STDOUT
        await _while_granted(_send_main_output(stream, sandbox, "stdout" if is_stdout else "stderr", request.offset))

    @unary
    async def SandboxStdinWriteV2(
        self, request: router_pb2.SandboxStdinWriteV2Request
    ) -> router_pb2.SandboxStdinWriteV2Response:
        """Write to the main process's stdin at a byte offset."""
        sandbox = self._sandbox(request.task_id)
        with stdin_errors():
            await sandbox.write_stdin(request.offset, request.data, eof=request.eof)
        return router_pb2.SandboxStdinWriteV2Response()

    @unary
    @partly("readiness probes.")
    async def SandboxWaitUntilReady(
        self, request: router_pb2.SandboxWaitUntilReadyTcrRequest
    ) -> router_pb2.SandboxWaitUntilReadyTcrResponse:
        """A sandbox here is ready when it was created: there are no probes."""
        return router_pb2.SandboxWaitUntilReadyTcrResponse(ready_at=self._sandbox(request.task_id).meta.created_at)


def CommandRouter(state: ServerState) -> TaskCommandRouterBase:
    """The servicer of the command router; methods that it does not have answer UNIMPLEMENTED with their name."""
    names = TaskCommandRouterBase.__abstractmethods__
    missing = {name: unimplemented(name) for name in names if not hasattr(RouterCalls, name)}
    servicer: TaskCommandRouterBase = type("CommandRouter", (RouterCalls, TaskCommandRouterBase), missing)(state)
    return servicer


async def _first(stream: Stream[Any, Any]) -> Any:
    request = await stream.recv_message()
    if request is None:
        raise GRPCError(Status.INVALID_ARGUMENT, "the request is empty")
    return request


def _exit_status(code: int) -> dict[str, int]:
    return {"signal": -code} if code < 0 else {"code": code}


def _terminal(request: router_pb2.TaskExecStartRequest) -> Terminal | None:
    info = request.pty_info
    if not request.HasField("pty_info") or not info.enabled:
        return None
    env = {"TERM": info.env_term, "COLORTERM": info.env_colorterm, "TERM_PROGRAM": info.env_term_program}
    given = {name: value for name, value in env.items() if value}
    return Terminal(info.winsz_rows or 24, info.winsz_cols or 80, {"TERM": "xterm", **given})


async def _while_granted(work: Awaitable[T]) -> T:
    """Do the work of a stream for as long as its token is good. Raises GRPCError (UNAUTHENTICATED)."""
    try:
        return await asyncio.wait_for(work, GRANT.get().expires_at - time.time())
    except asyncio.TimeoutError:
        raise GRPCError(Status.UNAUTHENTICATED, "the router token has expired") from None


async def _send_main_output(
    stream: Stream[Any, router_pb2.SandboxStdioReadV2Response], sandbox: Sandbox, name: str, at: int
) -> None:
    offset = at
    while data := await sandbox.read_output(name, offset):
        await stream.send_message(router_pb2.SandboxStdioReadV2Response(data=data, starting_offset=offset))
        offset += len(data)


async def _send_output(stream: Stream[Any, router_pb2.TaskExecStdioReadResponse], reader: PipeReader, at: int) -> None:
    offset = at
    try:
        while data := await reader.read(offset):
            await stream.send_message(router_pb2.TaskExecStdioReadResponse(data=data))
            offset += len(data)
            reader.deliver(offset)
    except OffsetGoneError as error:
        raise GRPCError(Status.OUT_OF_RANGE, str(error)) from None


async def _receive_stdin(
    stream: Stream[router_pb2.TaskExecStdinWriteStreamRequest, Any], process: ExecProcess, at: int
) -> None:
    offset = at
    while (message := await stream.recv_message()) is not None:
        if message.WhichOneof("payload") == "data":
            with stdin_errors():
                await process.stdin.write(offset, message.data)
            offset += len(message.data)
        elif message.WhichOneof("payload") == "end":
            with stdin_errors():
                await process.stdin.write(offset, b"", eof=True)
            return
    raise GRPCError(Status.INVALID_ARGUMENT, "the stream ended without an end message: stdin stays open")
