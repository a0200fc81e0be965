"""Logs: what the main processes of sandboxes print. Followed as it comes, or looked up by time."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp
from grpclib import GRPCError, Status
from grpclib.server import Stream
from modal_proto import api_pb2

from skyrl_magic.loopback.control.calls import Calls, not_found, partly, unary
from skyrl_magic.loopback.runtime.loglines import LogLine, read_lines
from skyrl_magic.loopback.runtime.sandbox import Sandbox

#: How long one call follows logs, in seconds, where the client does not say it.
LOGS_S = 55.0
#: How often a call that follows an app looks for new sandboxes and for the app's end, in seconds.
LOOK_S = 0.5
#: How much one answer holds, in bytes; of more, the newest lines.
ANSWER_BYTES = 32 * 1024 * 1024
#: What no log has.
LOGS_LACK = "messages of the system itself; by function or call."
_DESCRIPTORS = {"stdout": api_pb2.FILE_DESCRIPTOR_STDOUT, "stderr": api_pb2.FILE_DESCRIPTOR_STDERR}
_ANY = api_pb2.FILE_DESCRIPTOR_UNSPECIFIED
_Found = list[tuple[Sandbox, LogLine]]


class _Text(NamedTuple):
    sandbox: Sandbox
    stream: str
    text: str
    end: int
    """Byte offset behind it."""


class _Follow:
    """The output of all sandboxes that a request means, as it comes.

    An entry's id says how much of which stream was given out, so that another call goes on behind it.
    """

    def __init__(self, calls: LogCalls, request: api_pb2.AppGetLogsRequest) -> None:
        self._calls = calls
        self._request = request
        self._pumps: dict[tuple[str, str], asyncio.Task[None]] = {}
        # Short: who reads slowly must not have the whole output in memory.
        self._queue: asyncio.Queue[_Text | None] = asyncio.Queue(4)
        self._offsets: dict[str, int] = {}
        for part in filter(None, request.last_entry_id.split(",")):
            key, _, offset = part.rpartition(":")
            self._offsets[key] = int(offset)

    async def batches(self, timeout_s: float) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        """What comes until the time is up, or until all has ended: then the last one says so."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        try:
            while (left_s := until_s - loop.time()) > 0:
                self._look_for_sandboxes()
                if self._queue.empty() and self._is_over():
                    yield api_pb2.TaskLogsBatch(app_done=True)
                    return
                with contextlib.suppress(asyncio.TimeoutError):
                    text = await asyncio.wait_for(self._queue.get(), min(left_s, LOOK_S))
                    if text is not None:
                        yield self._batch(text)
        finally:
            for pump in self._pumps.values():
                pump.cancel()

    def _look_for_sandboxes(self) -> None:
        for sandbox in self._calls.sandboxes(self._request.app_id, self._request.task_id, self._request.sandbox_id):
            for stream, descriptor in _DESCRIPTORS.items():
                key = (sandbox.meta.sandbox_id, stream)
                if key not in self._pumps and self._request.file_descriptor in (_ANY, descriptor):
                    self._pumps[key] = asyncio.create_task(self._pump(sandbox, stream))

    def _is_over(self) -> bool:
        app = self._calls.state.apps.table.get(self._request.app_id)
        return (app is None or bool(app.stopped_at)) and all(pump.done() for pump in self._pumps.values())

    async def _pump(self, sandbox: Sandbox, stream: str) -> None:
        offset = self._offsets.get(f"{sandbox.meta.sandbox_id}:{stream}", 0)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while data := await sandbox.read_output(stream, offset):
            offset += len(data)
            if text := decoder.decode(data):
                # A character that is not complete yet belongs to the next text.
                await self._queue.put(_Text(sandbox, stream, text, offset - len(decoder.getstate()[0])))
        if text := decoder.decode(b"", final=True):
            await self._queue.put(_Text(sandbox, stream, text, offset))
        with contextlib.suppress(asyncio.QueueFull):  # wakes the reader, who has something to read otherwise
            self._queue.put_nowait(None)

    def _batch(self, text: _Text) -> api_pb2.TaskLogsBatch:
        self._offsets[f"{text.sandbox.meta.sandbox_id}:{text.stream}"] = text.end
        entry_id = ",".join(f"{key}:{offset}" for key, offset in self._offsets.items())
        return _batch(text.sandbox, [_item(text.stream, text.text, time.time())], entry_id)


class LogCalls(Calls):
    """``SandboxGetLogs`` and ``App*Logs``."""

    def sandboxes(self, app_id: str, task_id: str, sandbox_id: str) -> list[Sandbox]:
        """The sandboxes that a request means, the oldest first.

        Raises:
            GRPCError: NOT_FOUND, the task or sandbox is not known.
        """
        if not sandbox_id and not task_id:
            return [sandbox for sandbox in self.state.sandboxes if sandbox.meta.app_id == app_id][::-1]
        found = self.state.sandboxes.get(sandbox_id) if sandbox_id else self.state.sandboxes.by_task(task_id)
        if found is None:
            raise not_found("Sandbox" if sandbox_id else "Task", sandbox_id or task_id)
        return [found]

    async def SandboxGetLogs(self, stream: Stream[api_pb2.SandboxGetLogsRequest, api_pb2.TaskLogsBatch]) -> None:
        """The output of a V1 sandbox's main process as text; an entry's id is the byte offset behind it."""
        request = await stream.recv_message()
        if request is None:
            raise GRPCError(Status.INVALID_ARGUMENT, "the request is empty")
        (sandbox,) = self.sandboxes("", "", request.sandbox_id)
        await _send_logs(stream, sandbox, request)

    @partly(LOGS_LACK)
    async def AppGetLogs(self, stream: Stream[api_pb2.AppGetLogsRequest, api_pb2.TaskLogsBatch]) -> None:
        """Follow the output of an app's sandboxes, or of one of them."""
        request = await stream.recv_message()
        if request is None:
            raise GRPCError(Status.INVALID_ARGUMENT, "the request is empty")
        async for batch in _Follow(self, request).batches(request.timeout or LOGS_S):
            await stream.send_message(batch)

    async def _find(self, request: api_pb2.AppFetchLogsRequest | api_pb2.AppCountLogsRequest) -> _Found:
        sandboxes = self.sandboxes(request.app_id, request.task_id, request.sandbox_id)
        limit = request.limit if isinstance(request, api_pb2.AppFetchLogsRequest) else 0
        return await asyncio.to_thread(_find, sandboxes, request, limit)

    @unary
    @partly(f"{LOGS_LACK} An answer holds {ANSWER_BYTES >> 20} MiB at most.")
    async def AppFetchLogs(self, request: api_pb2.AppFetchLogsRequest) -> api_pb2.AppFetchLogsResponse:
        """The newest lines of a span of time, at most ``limit`` of them."""
        batches: list[api_pb2.TaskLogsBatch] = []
        for sandbox, line in await self._find(request):
            if not batches or batches[-1].task_id != sandbox.meta.task_id:
                batches.append(_batch(sandbox, []))
            batches[-1].items.append(_item(line.stream, line.data.decode("utf-8", "replace"), line.time_s))
        return api_pb2.AppFetchLogsResponse(batches=batches)

    @unary
    @partly(LOGS_LACK)
    async def AppCountLogs(self, request: api_pb2.AppCountLogsRequest) -> api_pb2.AppCountLogsResponse:
        """How many lines there are in each part of a span of time."""
        width_s = request.bucket_secs or 1
        counts = Counter((int(line.time_s // width_s), line.stream) for _, line in await self._find(request))
        buckets = [
            api_pb2.AppCountLogsResponse.LogBucket(
                bucket_start_at=Timestamp(seconds=index * width_s),
                stdout_logs=counts[index, "stdout"],
                stderr_logs=counts[index, "stderr"],
            )
            for index in sorted({index for index, _ in counts})
        ]
        return api_pb2.AppCountLogsResponse(app_id=request.app_id, buckets=buckets)


def _find(
    sandboxes: Iterable[Sandbox], request: api_pb2.AppFetchLogsRequest | api_pb2.AppCountLogsRequest, limit: int
) -> _Found:
    since_s, until_s = request.since.ToMicroseconds() / 1e6, request.until.ToMicroseconds() / 1e6
    wanted = {name for name, descriptor in _DESCRIPTORS.items() if request.source in (_ANY, descriptor)}
    search = request.search_text.encode()
    found: list[tuple[Sandbox, LogLine]] = []
    for sandbox in sandboxes:
        newest: deque[LogLine] = deque(maxlen=limit or None)
        for line in read_lines(sandbox.folder):
            if line.stream in wanted and since_s <= line.time_s < until_s and search in line.data:
                newest.append(line)
        found += ((sandbox, line) for line in newest)
    found.sort(key=lambda pair: pair[1].time_s)
    size_bytes = 0
    for index in range(len(found) - 1, -1, -1):
        size_bytes += len(found[index][1].data)
        if limit and (len(found) - index > limit or size_bytes > ANSWER_BYTES):
            return found[index + 1 :]
    return found


def _item(stream: str, text: str, time_s: float) -> api_pb2.TaskLogs:
    return api_pb2.TaskLogs(
        data=text, file_descriptor=_DESCRIPTORS[stream], timestamp=time_s, timestamp_ns=int(time_s * 1e9)
    )


def _batch(
    sandbox: Sandbox, items: Iterable[api_pb2.TaskLogs], entry_id: str = "", *, eof: bool = False
) -> api_pb2.TaskLogsBatch:
    meta = sandbox.meta
    return api_pb2.TaskLogsBatch(
        task_id=meta.task_id, sandbox_id=meta.sandbox_id, items=items, entry_id=entry_id, eof=eof
    )


async def _send_logs(
    stream: Stream[Any, api_pb2.TaskLogsBatch], sandbox: Sandbox, request: api_pb2.SandboxGetLogsRequest
) -> None:
    name = "stderr" if request.file_descriptor == api_pb2.FILE_DESCRIPTOR_STDERR else "stdout"
    offset = int(request.last_entry_id or 0)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def batch(text: str, end: int, *, eof: bool = False) -> api_pb2.TaskLogsBatch:
        items = [_item(name, text, time.time())] if text else []
        return _batch(sandbox, items, str(end), eof=eof)

    loop = asyncio.get_running_loop()
    until_s = loop.time() + (request.timeout or LOGS_S)
    while data := await sandbox.read_output(name, offset, max(0.0, until_s - loop.time())):
        offset += len(data)
        text = decoder.decode(data)
        # A character that is not complete yet belongs to the next entry.
        await stream.send_message(batch(text, offset - len(decoder.getstate()[0])))
    if data is not None:  # else nothing has come for so long: the client asks again
        await stream.send_message(batch(decoder.decode(b"", final=True), offset, eof=True))
