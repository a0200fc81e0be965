"""One client's channel: frames on stdin and stdout, for as long as the client pings.

Run control goes through the supervisor; output, journals and the checkout are served from disk, so that a slow client
delays only itself. Leaving harms nothing: runs go on, and another ``attach`` continues at the byte where this one
stopped.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, Type, Union

from skyrl_magic.agent import journal, paths
from skyrl_magic.agent.blobs import BlobReader, Blobs
from skyrl_magic.agent.checkout import Checkout, CheckoutRefusal
from skyrl_magic.agent.config import Config
from skyrl_magic.agent.feed import has_room
from skyrl_magic.agent.live import LiveWatch
from skyrl_magic.agent.watch import JournalReader
from skyrl_magic.agent.wire import Channel, connect_unix, dispatch
from skyrl_magic.core import protocol

#: After so long without a sign of life from the client it counts as gone, in seconds (it pings every 5 s).
PING_TIMEOUT_S = 30.0
#: How long to wait for a supervisor that is still booting, and how often to look (no event exists before its socket).
BOOT_TIMEOUT_S = 60.0
_LOOK_S = 0.02
#: How long the last frames may take once the session is over, in seconds.
_FLUSH_S = 2.0
#: Reads and uploads tell the supervisor that the session is in use, at most every so often, in seconds.
_USE_EVERY_S = 1.0
#: Number of the requests that attach itself makes of the supervisor; no client hears of their answers.
_OWN_REQUEST = -1

EXIT_OK = 0
#: As in sysexits.h: EX_DATAERR and EX_UNAVAILABLE.
EXIT_GARBAGE = 65
EXIT_NO_SESSION = 69


class Attach:
    """The channel between one client and the session.

    Args:
        state_dir: the supervisor's state.
        supervisor: a connection to it.
        stdio: the descriptors for frames in and out.
        ping_timeout_s: see :data:`PING_TIMEOUT_S`.
    """

    def __init__(
        self, state_dir: Path, supervisor: socket.socket, stdio: Tuple[int, int], ping_timeout_s: float
    ) -> None:
        config = Config.from_json((state_dir / paths.SESSION_FILE).read_text(encoding="utf-8"))
        self._config = config
        self._state_dir = state_dir
        self._ping_timeout_s = ping_timeout_s
        self._checkout = Checkout(Path(config.checkout_dir), state_dir)
        self._put_refusal: Optional[CheckoutRefusal] = None
        self._watches: Dict[str, LiveWatch] = {}
        self._readers: List[Union[JournalReader, BlobReader]] = []
        self._blobs = Blobs(state_dir / paths.BLOBS)
        self._exit_code: Optional[int] = None
        self._leave_at: Optional[float] = None
        self._used_at = 0.0
        self._heard_at = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._handlers: Dict[Type[protocol.Message], Callable[[Any], None]] = {
            protocol.Ping: lambda message: self._client.send(protocol.Pong(message.number)),
            protocol.StartRun: self._start_run,
            protocol.WatchRun: self._watch_run,
            protocol.UnwatchRun: self._unwatch_run,
            protocol.ReadJournal: self._read_journal,
            protocol.GetCheckout: lambda message: self._client.send(self._checkout.state(message)),
            protocol.PutFile: self._put_file,
            protocol.ApplyCheckout: self._apply_checkout,
            protocol.PutBlob: self._put_blob,
            protocol.ReadBlob: self._read_blob,
            protocol.DropBlob: lambda message: self._blobs.drop(message.name),
            protocol.FindUnkept: self._find_unkept,
        }
        self._client = Channel(self._selector, stdio[0], stdio[1], self._from_client, self._client_gone)
        self._client.gathers = True
        fd = supervisor.fileno()
        self._supervisor = Channel(self._selector, fd, fd, self._from_supervisor, self._supervisor_gone)

    def run(self) -> int:
        """Serve until the client or the session is gone; returns the exit code."""
        try:
            while self._exit_code is None:
                self._turn()
            return self._exit_code
        finally:
            self._checkout.discard()
            self._blobs.close()
            for watch in self._watches.values():
                watch.close()

    def _turn(self) -> None:
        wakes = [watch.wake_at for watch in self._watches.values() if watch.wake_at is not None]
        wakes.append(self._heard_at + self._ping_timeout_s if self._leave_at is None else self._leave_at)
        reading = bool(self._readers) and has_room(self._client)
        timeout_s = 0.0 if reading else max(min(wakes) - time.monotonic(), 0.0)
        dispatch(self._selector, timeout_s)
        self._pump()
        self._client.flush()
        now = time.monotonic()
        if now - self._heard_at >= self._ping_timeout_s:
            sys.stderr.write("skyrl_magic: the client is silent; its channel ends\n")
            self._exit_code = EXIT_OK
        if self._leave_at is not None and (now >= self._leave_at or self._all_sent()):
            self._exit_code = EXIT_NO_SESSION

    def _pump(self) -> None:
        now = time.monotonic()
        for run_id, watch in list(self._watches.items()):
            watch.pump(now)
            if watch.over:
                self._watches.pop(run_id).close()
        for reader in list(self._readers):
            reader.pump()
            if reader.over:
                self._readers.remove(reader)
                reader.close()

    def _all_sent(self) -> bool:
        ending = any(watch.ending for watch in self._watches.values())
        return not ending and not self._readers and not self._client.queued_bytes

    # --- the client ---

    def _from_client(self, message: protocol.Message) -> None:
        self._heard_at = time.monotonic()
        handler = self._handlers.get(type(message), self._supervisor.send)
        try:
            handler(message)
        except CheckoutRefusal as refusal:
            self._refuse(message, refusal.code, str(refusal))
        except (TypeError, ValueError, AttributeError, KeyError) as error:  # fields of a wrong type
            self._refuse(message, "bad_request", f"{type(message).__name__}: {error}")
        except OSError as error:
            self._refuse(message, "io_error", f"{type(message).__name__}: {error.strerror or error}")

    def _refuse(self, message: protocol.Message, code: str, text: str) -> None:
        self._client.send(protocol.Failed(getattr(message, "request", 0), code, text))

    def _client_gone(self, reason: Optional[Exception]) -> None:
        self._exit_code = EXIT_OK
        if isinstance(reason, protocol.ProtocolError):
            sys.stderr.write(f"skyrl_magic: {reason}\n")
            self._exit_code = EXIT_GARBAGE

    def _start_run(self, request: protocol.StartRun) -> None:
        self._checkout.require(request.generation)
        self._supervisor.send(request)

    def _watch_run(self, request: protocol.WatchRun) -> None:
        self._unwatch(request.run_id)
        if paths.valid_run_id(request.run_id):
            folder = paths.run_dir(self._state_dir, request.run_id)
            self._watches[request.run_id] = LiveWatch(request, folder, self._client, self._selector)
        # The supervisor answers with where the run stands, or that there is none; only then its journal is opened.
        self._supervisor.send(request)

    def _unwatch_run(self, request: protocol.UnwatchRun) -> None:
        self._unwatch(request.run_id)
        self._supervisor.send(request)

    def _unwatch(self, run_id: str) -> None:
        watch = self._watches.pop(run_id, None)
        if watch is not None:
            watch.close()

    def _read_journal(self, request: protocol.ReadJournal) -> None:
        self._used()
        if request.stream not in protocol.JOURNAL_STREAMS:
            self._refuse(request, "bad_request", f"a run has no stream {request.stream!r}")
            return
        folder = paths.run_dir(self._state_dir, request.run_id) if paths.valid_run_id(request.run_id) else None
        if folder is None or not folder.is_dir():
            self._refuse(request, "unknown_run", f"this session has no run {request.run_id}")
            return
        size = journal.sizes(folder)[protocol.JOURNAL_STREAMS.index(request.stream)]
        end = size if request.end < 0 else min(request.end, size)
        self._readers.append(JournalReader(request, journal.Cursor(folder, {}), end, self._client))

    def _put_file(self, part: protocol.PutFile) -> None:
        self._used()
        try:
            self._checkout.put(part)
        except CheckoutRefusal as refusal:
            self._put_refusal = self._put_refusal or refusal
            raise

    def _apply_checkout(self, request: protocol.ApplyCheckout) -> None:
        self._used()
        refusal, self._put_refusal = self._put_refusal, None
        if refusal is not None:
            self._checkout.discard()
            raise refusal
        self._client.send(self._checkout.apply(request))

    def _put_blob(self, part: protocol.PutBlob) -> None:
        self._used()
        self._blobs.put(part)
        if part.last:
            self._client.send(protocol.Done(part.request))

    def _read_blob(self, request: protocol.ReadBlob) -> None:
        self._used()
        self._readers.append(BlobReader(request, self._blobs.path(request.name), self._client))

    def _find_unkept(self, request: protocol.FindUnkept) -> None:
        from skyrl_magic.agent.unkept import find_unkept  # at the session's end alone

        config = self._config
        checkout = Path(config.checkout_dir)
        roots = [checkout, *([Path(config.home_dir)] if config.home_dir else [])]
        apart = [Path(path) for path in (config.volume_dir, config.volume_link) if path]
        since = (self._state_dir / paths.SESSION_FILE).stat().st_mtime
        found = find_unkept(roots, apart, self._checkout.sizes(), since)
        self._client.send(protocol.Unkept(request.request, [[path, size_bytes] for path, size_bytes in found]))

    def _used(self) -> None:
        now = time.monotonic()
        if now - self._used_at >= _USE_EVERY_S:
            self._used_at = now
            self._supervisor.send(protocol.Configure(_OWN_REQUEST))

    # --- the supervisor ---

    def _from_supervisor(self, message: protocol.Message) -> None:
        if isinstance(message, protocol.RunEnded):
            watch = self._watches.get(message.run_id)
            if watch is not None:  # the end comes after all output
                watch.end(message)
            return
        if isinstance(message, protocol.RunStarted) and message.run_id in self._watches:
            self._watches[message.run_id].started()
        if not (isinstance(message, protocol.Done) and message.request == _OWN_REQUEST):
            self._client.send(message)

    def _supervisor_gone(self, _: Optional[Exception]) -> None:
        self._leave_at = time.monotonic() + _FLUSH_S


def run_attach(state_dir: Path, ping_timeout_s: float = PING_TIMEOUT_S, boot_timeout_s: float = BOOT_TIMEOUT_S) -> int:
    """Serve one client on stdin and stdout; returns the exit code."""
    stdio = _take_over_stdio()
    try:
        supervisor = _wait_for_supervisor(state_dir / paths.SUPERVISOR_SOCKET, boot_timeout_s)
    except OSError as error:
        sys.stderr.write(f"skyrl_magic: no session answers in {state_dir}: {error.strerror or error}\n")
        return EXIT_NO_SESSION
    with supervisor:
        return Attach(state_dir, supervisor, stdio, ping_timeout_s).run()


def _take_over_stdio() -> Tuple[int, int]:
    """Keep stdin and stdout for frames alone: whatever else prints or reads meets stderr and an empty input."""
    stdin, stdout = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return stdin, stdout


def _wait_for_supervisor(path: Path, timeout_s: float) -> socket.socket:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return connect_unix(path)
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() >= deadline:
                raise
        time.sleep(_LOOK_S)
