"""The control channel to one session: requests and their answers, and the output of watched runs.

The channel is disposable. When its exec breaks, another one is opened and each watched run goes on at the byte where
it stopped; requests that were under way fail with :class:`ChannelBroken` and can be sent again.
"""

from __future__ import annotations

import atexit
import contextlib
import queue
import secrets
import threading
from collections.abc import Callable
from typing import TypeVar

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import BackendError, SessionError, SessionLost, SessionUnreachable
from skyrl_magic.core.outputs import checked as checked_message
from skyrl_magic.core.ports import ByteStream
from skyrl_magic.core.protocol.durations import duration_text
from skyrl_magic.service.connection import ChannelBroken, Connection, Timing
from skyrl_magic.service.health import Health
from skyrl_magic.service.pending import Pending
from skyrl_magic.service.watch import Lost, Trouble, Watch, payload_bytes

#: How often an action is begun before a connection that breaks each time is given up.
TRIES = 3

#: How long the end of a process waits for the agent to be told how far its runs were shown, in seconds.
_FAREWELL_S = 1.0

M = TypeVar("M", bound=protocol.Message)
T = TypeVar("T")


class Channel:
    """A context manager around the exec of ``attach``; it is open after :meth:`open`.

    Args:
        connect: starts the exec of the agent's ``attach``. Raises SessionLost when the container has ended.
        on_status: hears each status that the session pushes (Ray's start), and where it stands after a reconnection.
        timing: how patient it is.
        on_kernel_message: hears what the Python kernel sends outside of a run that is followed; in the reader's thread.
        revive: starts the server again where it is ours and has gone; whether it had. Raises BackendError.
    """

    def __init__(
        self,
        connect: Callable[[], ByteStream],
        on_status: Callable[[protocol.Status], None] = lambda _: None,
        timing: Timing | None = None,
        on_kernel_message: Callable[[protocol.KernelMessage], None] = lambda _: None,
        revive: Callable[[], bool] = lambda: False,
    ) -> None:
        self.gone = threading.Event()
        """The session cannot be reached any more; :attr:`lost` says why."""
        self.on_notice: Callable[[protocol.Notice], None] = lambda _: None
        """Hears what everybody should be shown once; in the reader's thread."""
        self.revive = revive
        self._connect = connect
        self._on_kernel_message = on_kernel_message
        self._on_status = on_status
        self._timing = timing or Timing()
        self._client_id = secrets.token_hex(8)
        self._pending = Pending()
        self._state = threading.Lock()
        self._connection: Connection | None = None
        self._welcomed: queue.SimpleQueue[protocol.Welcome | Exception] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._connected = threading.Event()
        self._tries = 0  # to open it again, since the agent last answered
        self._told = False
        """The agent was told how far a run was shown, and may not have heard it yet."""
        self._health = Health(self, self._timing)
        self.welcome = protocol.Welcome()

    def open(self) -> protocol.Welcome:
        """Connect and greet.

        Raises:
            SessionLost: the container ended, or its agent does not answer. SessionError: it speaks another version.
        """
        self._connection = Connection(self._connect())
        try:
            threading.Thread(target=self._read_forever, name="skyrl-channel", daemon=True).start()
            with contextlib.suppress(ChannelBroken):  # the reader opens another one and greets there
                self._connection.write(protocol.Hello(client_id=self._client_id))
            welcome = self._greeting()
        except BaseException:
            self.close()
            raise
        self._health.start()
        # Modal's client registers its own end when it is imported, and what is registered later is called earlier.
        atexit.register(self.close)
        return welcome

    def _greeting(self) -> protocol.Welcome:
        timeout_s = self._timing.attach_timeout_s
        try:
            answer = self._welcomed.get(timeout=timeout_s)
        except queue.Empty:
            raise SessionLost(f"the session's agent did not answer in {duration_text(timeout_s)}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Leave; runs go on."""
        atexit.unregister(self.close)
        self._farewell()
        self._closed.set()
        self._health.leave()
        connection = self._connection
        if connection is not None:
            connection.close()
        self._connected.set()  # who waits for a connection hears that there will be none

    @property
    def lost(self) -> SessionLost | None:
        """Why the session cannot be reached any more; None while it can."""
        return self._pending.lost

    @property
    def alive(self) -> bool:
        """Whether the session can be asked: open, and the container not known to be gone."""
        return not self._closed.is_set() and self.lost is None

    def wait_connected(self, timeout_s: float) -> None:
        """Wait until a broken connection is open again.

        Raises:
            SessionLost: the container is gone. SessionError: after ``timeout_s``, or the channel is closed.
        """
        if not self._connected.wait(timeout_s):
            raise SessionError(f"the connection to the session did not come back in {duration_text(timeout_s)}")
        if self.lost is not None:
            raise self.lost
        if self._closed.is_set():
            raise ChannelBroken("the channel to the session is closed")

    def patiently(self, action: Callable[[], T]) -> T:
        """Do what can be done again: when the connection breaks meanwhile, wait for the next one and repeat it.

        Raises:
            SessionLost: the container is gone. ChannelBroken: it broke :data:`TRIES` times.
        """
        for _ in range(TRIES - 1):
            try:
                return action()
            except ChannelBroken:
                self.wait_connected(self._timing.reconnect_timeout_s)
        return action()

    def request(
        self,
        make: Callable[[int], protocol.Message],
        reply: type[M],
        timeout_s: float = 60.0,
        also: protocol.Message | None = None,
    ) -> M:
        """Send ``make(request number)``, with ``also`` right behind it, and wait for its answer.

        Raises:
            ChannelBroken: the connection broke meanwhile. SessionLost: the container is gone.
            SessionError: the session refused, or did not answer in time.
        """
        with self._pending.request() as pending:
            self._write(make(pending.number), *([also] if also else []))
            return pending.answer(reply, timeout_s)

    def read_journal(self, run_id: str, stream: str, start: int, end: int, sink: Callable[[bytes], object]) -> None:
        """Hand the bytes ``[start, end)`` of a run's stream to ``sink``, part by part (``end`` -1: all there is).

        Raises:
            SessionError: no such run, or a broken channel.
        """
        most = end - start if end >= 0 else None
        self._receive(lambda number: protocol.ReadJournal(number, run_id, stream, start, end), sink, most)

    def read_blob(self, name: str, sink: Callable[[bytes], object]) -> None:
        """Hand a file of this client, part by part, to ``sink``. Raises SessionError."""
        self._receive(lambda number: protocol.ReadBlob(number, name), sink)

    def send(self, *messages: protocol.Message) -> None:
        """Send frames that have no answer, at one go. Raises ChannelBroken or SessionLost."""
        self._write(*messages)

    def add_watch(self, request: protocol.WatchRun) -> Watch:
        """Make ready for a run's frames; they come once :meth:`Watch.resume` was sent. Raises SessionLost."""
        watch = Watch(request)
        self._pending.add_watch(watch)
        return watch

    def unwatch(self, watch: Watch) -> None:
        """Stop watching; the run goes on."""
        self._pending.drop_watch(watch)
        # In a thread: a cell must not wait for a server that takes nothing any more. How far a run was shown is told at
        # its end too, and not with the next ping: the kernel may be gone by then.
        if not watch.ended or watch.seen is not None:
            threading.Thread(target=self._send_unwatch, args=(watch,), name="skyrl-unwatch", daemon=True).start()

    def leave(self, watch: Watch) -> None:
        """Stop watching a run that goes on; when this returns the agent knows, or the connection is broken."""
        self._pending.drop_watch(watch)
        self._send_unwatch(watch)

    def begin_watch(self, request: protocol.WatchRun) -> Watch:
        """Watch a run that was started before. Raises SessionError."""
        # What may still come of an earlier watch of this run comes before this answer.
        self.patiently(lambda: self.request(protocol.GetStatus, protocol.Status))
        watch = self.add_watch(request)
        with contextlib.suppress(ChannelBroken):  # the next connection resumes it
            self.send(watch.resume())
        return watch

    def _send_unwatch(self, watch: Watch) -> None:
        self._tell_seen(*([] if watch.ended else [protocol.UnwatchRun(watch.run_id)]))

    def _tell_seen(self, *messages: protocol.Message, patience_s: float = -1) -> None:
        """Tell the agent how far cells have shown their runs, with what else is to be said."""
        seen = self._pending.take_seen()
        self._told = self._told or bool(seen)
        try:
            if seen or messages:
                self._write(*seen, *messages, patience_s=patience_s)
        except SessionError:
            self._pending.keep_seen(seen)  # for the next connection

    def _farewell(self) -> None:
        """See that the agent knows how far runs were shown, as far as that is quick."""
        if not self.alive or not self._connected.is_set() or not (self._told or self._pending.has_seen):
            return

        def tell() -> None:
            self._tell_seen(patience_s=_FAREWELL_S)
            with contextlib.suppress(SessionError):  # its answer says that it has read what came before
                self.request(protocol.GetStatus, protocol.Status, timeout_s=_FAREWELL_S)

        thread = threading.Thread(target=tell, name="skyrl-farewell", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends, and starts no thread any more: Python 3.12's before atexit
            tell()
        else:
            thread.join(_FAREWELL_S)

    # --- for its health ---------------------------------------------------------------------------------------------

    @property
    def awaited(self) -> bool:
        """A run is followed, and no request is under way: an agent that takes in much data answers a ping later."""
        return bool(self._pending.watches) and not self._pending.asks

    def ping(self, number: int) -> None:
        """Send a ping, unless another writer does not come to an end."""
        self._tell_seen(protocol.Ping(number), patience_s=self._timing.ping_interval_s)

    def drop(self) -> None:
        """Give the connection up: the reader sees its end and opens another one."""
        connection = self._connection
        if connection is not None:
            connection.close()

    def tell(self, *, broken: bool) -> None:
        """Tell who follows a run that the connection is in trouble, or carries again."""
        self._pending.tell(Trouble(broken))

    # --- inside ---------------------------------------------------------------------------------------------------

    def _receive(
        self, make: Callable[[int], protocol.Message], sink: Callable[[bytes], object], most: int | None = None
    ) -> None:
        """At most ``most`` bytes are taken: a container that sends more is asked no further."""
        taken = 0
        with self._pending.request() as pending:
            self._write(make(pending.number))
            while True:
                data = pending.answer(protocol.JournalData, timeout_s=60.0)
                if data.payload:
                    part = payload_bytes(data)
                    taken += len(part)
                    if most is not None and taken > most:
                        self.drop()
                        raise SessionError(f"the session sent more than the {most} bytes that were asked for")
                    sink(part)
                if data.last:
                    return

    def _write(self, *messages: protocol.Message, patience_s: float = -1) -> None:
        connection = self._connection
        if self._closed.is_set() or connection is None:
            raise ChannelBroken("the channel to the session is closed")
        try:
            connection.write(*messages, patience_s=patience_s)
        except BaseException:  # the reader sees the end too, and opens another one
            with self._state:
                if connection is self._connection and self.alive:
                    self._connected.clear()
            raise

    def _read_forever(self) -> None:
        """Reader thread: frames until the stream ends, then the next stream, until closed or lost."""
        while True:
            reason = self._read_stream()
            if not self._closed.is_set():
                self._connected.clear()
                self._health.broke()
                self._pending.fail_requests(ChannelBroken(f"the connection to the session broke: {reason}"))
                error = self._reopen(reason)
                if error is not None:
                    self._lose(error)
                    return
            if self._closed.is_set():
                self._leave()
                return

    def _read_stream(self) -> str:
        """Take frames until the stream ends; why it did. What the container sends is untrusted."""
        decoder = protocol.FrameDecoder()
        connection = self._connection
        if connection is None:
            return "not connected"
        try:
            while data := connection.read():
                for message in decoder.feed(data):
                    self._dispatch(message)
        except (BackendError, SessionError, protocol.ProtocolError) as error:
            return str(error)
        except (TypeError, ValueError, KeyError) as error:
            return f"a frame has a wrong field: {error}"
        finally:
            connection.close()
        return "the agent left"

    def _reopen(self, reason: str) -> SessionLost | None:
        """Connect again and resume the watches; the error when the container is gone for good."""
        pauses_s = self._timing.reopen_pauses_s
        while self._tries < len(pauses_s):
            pause_s = pauses_s[self._tries]
            self._tries += 1
            if self._closed.wait(pause_s):
                return None
            try:
                connection = Connection(self._connect())
                with self._state:
                    self._connection = connection
                # A watch that is added after this look is written to the new connection by who adds it.
                watches = [watch for watch in self._pending.watches if not watch.ended]
                # The status again: Ray may have come up while nobody listened.
                hello, status = protocol.Hello(client_id=self._client_id), protocol.GetStatus()
                connection.write(hello, status, *(watch.resume() for watch in watches))
            except SessionLost as error:
                return error
            except (BackendError, ChannelBroken) as error:
                reason = str(error)
            else:
                if self._closed.is_set():  # meanwhile: close() has seen the one before
                    connection.close()
                return None
        return SessionUnreachable(
            f"the session cannot be reached any more ({reason}); its runs may go on: %skyrl_sessions shows it"
        )

    def _dispatch(self, message: protocol.Message) -> None:
        number = getattr(message, "request", 0)
        run_id = getattr(message, "run_id", "")
        if isinstance(message, protocol.Pong):
            self._health.answered()
        elif isinstance(message, protocol.Welcome):
            self._greeted(message)
        elif isinstance(message, protocol.KernelMessage):
            self._on_kernel_message(checked_message(message))
        elif isinstance(message, protocol.Notice):
            self.on_notice(message)
            self._pending.tell(message)
        elif isinstance(message, protocol.Status) and number == 0:
            self._on_status(message)
        elif number:
            self._pending.answer(number, message)
        elif run_id:
            self._pending.hear(run_id, message)

    def _greeted(self, welcome: protocol.Welcome) -> None:
        if welcome.version != protocol.VERSION:
            self._welcomed.put(
                SessionError(
                    f"session {welcome.session} runs version {welcome.version} of the agent and this is version "
                    f"{protocol.VERSION}: end it with %skyrl_stop {welcome.session} and run the cell again"
                )
            )
            return
        self.welcome = welcome
        self._tries = 0
        self._health.answered()
        self._connected.set()
        self._welcomed.put(welcome)

    def _lose(self, error: SessionLost) -> None:
        with self._state:
            self._pending.lose(error)
            self._connected.set()
        self._health.leave()
        self._welcomed.put(error)
        self.gone.set()

    def _leave(self) -> None:
        self._connected.set()
        self._pending.fail_requests(ChannelBroken("the channel was closed"))
        left = SessionLost("this notebook has left the session; %skyrl_sessions shows whether it runs")
        self._pending.tell(Lost(left))
