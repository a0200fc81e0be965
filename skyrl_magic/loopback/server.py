"""The composition of the server: stores, handlers, listeners, and the rule by which it ends itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
from typing import TYPE_CHECKING, Any

from aiohttp import web
from grpclib.encoding.proto import ProtoCodec
from grpclib.events import RecvRequest, listen
from modal_proto.api_grpc import ModalClientBase

from skyrl_magic.loopback.auth import Auth
from skyrl_magic.loopback.blob_endpoint import BlobEndpoint
from skyrl_magic.loopback.control.apps import AppCalls
from skyrl_magic.loopback.control.blobs import BlobCalls
from skyrl_magic.loopback.control.calls import unimplemented
from skyrl_magic.loopback.control.environments import EnvironmentCalls
from skyrl_magic.loopback.control.images import ImageCalls
from skyrl_magic.loopback.control.logs import LogCalls
from skyrl_magic.loopback.control.mounts import MountCalls
from skyrl_magic.loopback.control.sandboxes import SandboxCalls
from skyrl_magic.loopback.control.secrets import SecretCalls
from skyrl_magic.loopback.control.tasks import TaskCalls
from skyrl_magic.loopback.control.throttle import DetailsCodec, come_back
from skyrl_magic.loopback.control.volume_files import VolumeFileCalls
from skyrl_magic.loopback.control.volumes import VolumeCalls
from skyrl_magic.loopback.daemon import END_EVERYTHING, HOST
from skyrl_magic.loopback.documents import now, read_json, write_json
from skyrl_magic.loopback.layout import Layout
from skyrl_magic.loopback.router import GRANT, CommandRouter
from skyrl_magic.loopback.state import ServerState
from skyrl_magic.loopback.strangers import GuardedServer, guarded

if TYPE_CHECKING:
    from collections.abc import Callable

    from grpclib._typing import IServable

log = logging.getLogger(__name__)

_CONTROL_PREFIX = "/modal.client.ModalClient/"
#: How often the server looks whether it is still needed, in seconds; less where its idle time is shorter.
IDLE_CHECK_S = 15.0

#: The handler classes of the control API. A new kind of object is a new class here.
HANDLERS: tuple[type, ...] = (
    AppCalls,
    BlobCalls,
    EnvironmentCalls,
    ImageCalls,
    LogCalls,
    MountCalls,
    SandboxCalls,
    SecretCalls,
    TaskCalls,
    VolumeCalls,
    VolumeFileCalls,
)


def covered_methods() -> dict[str, bool]:
    """Every method of Modal's control API, and whether the loopback server has it."""
    return {name: implementation(name) is not None for name in sorted(ModalClientBase.__abstractmethods__)}


def implementation(name: str) -> Callable[..., Any] | None:
    """The handler of a method, or None."""
    return next((getattr(handler, name) for handler in HANDLERS if hasattr(handler, name)), None)


def control_servicer(state: ServerState) -> ModalClientBase:
    """The servicer of the control API; methods that no handler has answer UNIMPLEMENTED with their name."""
    missing = {name: unimplemented(name) for name, covered in covered_methods().items() if not covered}
    servicer: ModalClientBase = type("ControlApi", (*HANDLERS, ModalClientBase), missing)(state)
    return servicer


class LoopbackServer:
    """The listeners of one state directory. The caller holds the directory's lock."""

    def __init__(self, layout: Layout, idle_exit_s: float) -> None:
        previous = read_json(layout.server_file) or {}
        # The token and the ports outlive a restart, so that a client that lives through it goes on.
        auth = Auth(
            previous.get("token_id") or f"ak-{secrets.token_hex(11)}",
            previous.get("token_secret") or f"as-{secrets.token_urlsafe(32)}",
        )
        self.state = ServerState(layout, auth)
        self._idle_exit_s = idle_exit_s
        self._previous_ports: tuple[int, int] = (previous.get("port", 0), previous.get("blob_port", 0))
        self._stopped = asyncio.Event()
        self._end_sandboxes = False
        servicers: list[IServable] = [control_servicer(self.state), CommandRouter(self.state)]
        self._grpc = GuardedServer(servicers, codec=ProtoCodec(), status_details_codec=DetailsCodec())
        self._blobs: asyncio.Server | None = None
        self._blob_runner = web.AppRunner(BlobEndpoint(self.state).application(), access_log=None)
        listen(self._grpc, RecvRequest, self._on_request)

    async def _on_request(self, event: RecvRequest) -> None:
        self.state.activity.touch()
        if event.method_name.startswith(_CONTROL_PREFIX):
            self.state.auth.check_client(event.metadata)
            answers = self.state.answers.now()
            if event.method_name.removeprefix(_CONTROL_PREFIX) in answers.throttled:
                raise come_back("too many requests", answers.retry_after_s)
        else:
            GRANT.set(self.state.auth.router_grant(event.metadata))

    async def serve(self, on_ready: Callable[[], None]) -> None:
        """Listen, write the address, call ``on_ready``; return after a signal, or when nobody uses the server."""
        sockets = [_listen(port) for port in self._previous_ports]
        grpc_port, blob_port = (sock.getsockname()[1] for sock in sockets)
        self.state.grpc_url = f"http://{HOST}:{grpc_port}"
        self.state.blob_url = f"http://{HOST}:{blob_port}"
        self._handle_signals()
        collected = asyncio.create_task(asyncio.to_thread(self._collect))
        try:
            await self.state.sandboxes.start()
            await self._grpc.start(sock=sockets[0])
            await self._blob_runner.setup()
            blobs = self._blob_runner.server
            assert blobs is not None  # noqa: S101  (it was set up)
            self._blobs = await asyncio.get_running_loop().create_server(guarded(blobs), sock=sockets[1])
            self._write_address(grpc_port, blob_port)
            log.info("listening on %s", self.state.grpc_url)
            on_ready()
            await self._wait_until_unused()
        finally:
            await self._close()
            await collected

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, END_EVERYTHING):
            loop.add_signal_handler(number, self._stop, number == END_EVERYTHING)
        if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
            # Under nohup. A handler ignores it too, but unlike SIG_IGN a container's programs do not inherit it.
            signal.signal(signal.SIGHUP, lambda *_: None)

    def _stop(self, end_sandboxes: bool) -> None:  # noqa: FBT001 - a signal handler gets positions only
        self._end_sandboxes = self._end_sandboxes or end_sandboxes
        self._stopped.set()

    async def _close(self) -> None:
        self._grpc.close()
        if self._end_sandboxes:
            await self.state.sandboxes.terminate_all()
        await self.state.sandboxes.close()
        await self._grpc.wait_closed()
        if self._blobs is not None:
            self._blobs.close()
        await self._blob_runner.cleanup()

    async def _wait_until_unused(self) -> None:
        interval_s = min(IDLE_CHECK_S, self._idle_exit_s / 4)
        while not self._stopped.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), interval_s)
            if self.state.sandboxes.alive_count():
                self.state.activity.touch()
            if self.state.activity.idle_s > self._idle_exit_s:
                log.info("unused for %.0f s: ending", self._idle_exit_s)
                return

    def _write_address(self, port: int, blob_port: int) -> None:
        auth = self.state.auth
        document = {
            "pid": os.getpid(),
            "port": port,
            "blob_port": blob_port,
            "token_id": auth.token_id,
            "token_secret": auth.token_secret,
            "started_at": now(),
        }
        write_json(self.state.layout.server_file, document)

    def _collect(self) -> None:
        """Delete contents that no volume and no mount has any more."""
        try:
            kept = {*self.state.volumes.referenced(), *self.state.mounts.referenced()}
            freed_bytes = self.state.blobs.collect(kept)
        except (OSError, ValueError, KeyError):
            log.exception("old contents could not be deleted")
        else:
            log.debug("freed %d bytes of old contents", freed_bytes)


def _listen(port: int) -> socket.socket:
    """A listening socket on ``port`` if it is free, else on any."""
    for candidate in (port, 0):
        # With the protocol named, else asyncio does not see that it is TCP and leaves Nagle on: 44 ms a round trip.
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        # A port of which only closed connections linger counts as free.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, candidate))
            sock.listen(128)
        except OSError:
            sock.close()
            if candidate == 0:
                raise
        else:
            sock.setblocking(False)
            return sock
    raise AssertionError("unreachable")
