"""Sessions: one warm container for each spec and owner, found again, shared between notebooks, started when needed."""

from __future__ import annotations

import getpass
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from skyrl_magic.core import contract, protocol
from skyrl_magic.core.errors import (
    AlreadyExists,
    BackendError,
    CheckoutError,
    NotFound,
    RunStopped,
    SessionConflict,
    SessionError,
    SessionLost,
)
from skyrl_magic.core.options import spec_flag, spec_text
from skyrl_magic.core.ports import Backend, Sandbox, SandboxRequest, Upload
from skyrl_magic.core.spec import SessionSpec
from skyrl_magic.service.checkout import Checkout, CheckoutReader
from skyrl_magic.service.connection import Timing
from skyrl_magic.service.creation import abandon, follow_phases, make_upload, supervisor_config
from skyrl_magic.service.patience import wait_for
from skyrl_magic.service.session import ENDED, Progress, Session
from skyrl_magic.service.session_info import SessionInfo, session_info
from skyrl_magic.service.sync import CheckoutSync

#: How often a name that is taken and free by turns is tried.
_TRIES = 5
_TAG = "skyrl_magic"
#: Where a session is: backend, app and name.
Place = tuple[str, str, str]
#: How patient the table is with each session.
QUICK = Timing(attach_timeout_s=10.0, reopen_pauses_s=())


@dataclass(frozen=True)
class SessionRequest:
    """What a magic asks for."""

    spec: SessionSpec
    checkout: Checkout | None
    idle_timeout_s: int
    name: str | None = None
    asked: frozenset[str] | None = None
    """The fields of the spec in which a running session of the name must agree; None for all of them."""


def owner() -> str:
    """Who owns the sessions that are started here: sessions of one user on one machine are shared by notebooks."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "user"
    return f"{user}@{socket.gethostname()}"


class SessionService:
    """Finds, starts, lists and stops sessions.

    Args:
        backend: gives the backend of a name. Raises BackendError.
        build_agent: writes the agent's zipapp and returns its path.
        server: says in a few words who answers for a backend, for who waits for it.
    """

    def __init__(
        self, backend: Callable[[str], Backend], build_agent: Callable[[], Path], server: Callable[[str], str] = str
    ) -> None:
        self._server = server
        self._backend = backend
        self._build_agent = build_agent
        self._sessions: dict[Place, Session] = {}
        self._used: set[str] = set()
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="skyrl-create")
        self._lock = threading.RLock()

    def close(self) -> None:
        """Leave all sessions; they and their runs go on."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        self._pool.shutdown(wait=False)

    def ensure(self, request: SessionRequest, progress: Progress) -> tuple[Session, bool]:
        """The session that is asked for, and whether it was started now.

        Raises:
            SessionConflict: the name belongs to another spec. SessionError, BackendError: it cannot be started.
            RunStopped: interrupted meanwhile; a container under way is ended.
        """
        spec = request.spec
        name = request.name or spec.default_name(owner())
        key = (spec.backend, spec.app, name)
        with self._lock:
            known = self._known(key, request)
            if known is not None:
                return known, False
            self._forget(key)
            backend = self.reach(spec.backend, progress)
            for _ in range(_TRIES):
                session = self._join(backend, request, name, progress)
                created = session is None
                try:
                    session = session or self._create(backend, request, name, progress)
                    session.open()
                except AlreadyExists:
                    continue
                except SessionLost:
                    if session is None or not _gone(session, created=created):
                        raise
                    continue  # it ended between being found and being asked
                return self._keep(key, session), created
        raise SessionError(f"session {name} is being started and stopped all the time elsewhere: try --session OTHER")

    def join(self, request: SessionRequest) -> Session | None:
        """The session that is asked for, open as after :meth:`ensure`, where it runs; none is started.

        Raises:
            SessionConflict: the name belongs to another spec. SessionError: it does not answer. BackendError.
        """
        spec = request.spec
        name = request.name or self.default_name(spec)
        key = (spec.backend, spec.app, name)
        with self._lock:
            known = self._known(key, request)
            if known is not None:
                return known
            session = self._join(self._ask(spec.backend), request, name)
            if session is None:
                return None
            try:
                session.open()
            except SessionLost:
                _gone(session, created=False)
                return None
            return self._keep(key, session)

    def leave(self, session: Session) -> None:
        """Close an open session; it and its runs go on."""
        self._forget((session.spec.backend, session.spec.app, session.name))

    def get(self, backend: str, app: str, name: str) -> Session | None:
        """The open session of this name in this process."""
        session = self._sessions.get((backend, app, name))
        return session if session is not None and session.channel.alive else None

    def open_names(self) -> list[str]:
        """The names of the sessions that this process has open; asks nobody."""
        return [key[2] for key, session in self._sessions.items() if session.channel.alive]

    def newest_open(self) -> Session | None:
        """The session that this process has opened last, of those that are open."""
        alive = (session for session in reversed(self._sessions.values()) if session.channel.alive)
        return next(alive, None)

    def default_name(self, spec: SessionSpec) -> str:
        """The name of the session of this spec when the user gives none."""
        return spec.default_name(owner())

    def why_lost(self, request: SessionRequest) -> str:
        """Why the session that this process had for the request has ended; empty where it had none, or has it."""
        name = request.name or request.spec.default_name(owner())
        session = self._sessions.get((request.spec.backend, request.spec.app, name))
        lost = None if session is None else session.channel.lost
        return "" if lost is None else str(lost).removeprefix(ENDED)

    def backends(self, first: str) -> Sequence[str]:
        """The name ``first``, and those of the other backends that this process has used."""
        return [first, *sorted(self._used - {first})]

    def list(self, backend: str) -> list[SessionInfo]:
        """The owner's running sessions, of whichever app, newest first; all are asked at the same time.

        Raises:
            BackendError: the backend cannot be asked.
        """
        rows = self._pool.map(lambda sandbox: self._row(backend, sandbox), self._running(backend))
        return sorted((row for row in rows if row is not None), key=lambda row: row.age_s)

    def running(self, backend: str) -> Sequence[Place]:
        """Where the owner's running sessions are; asks none of them. Raises BackendError."""
        found = self._pool.map(_tags, self._running(backend))
        return [(backend, tags["app"], tags["session"]) for tags in found if "session" in tags and "app" in tags]

    def locate(self, backend: str, app: str, name: str) -> Place:
        """Where the session of this name is: in this app, open in this process, or in any app of a used backend.

        Raises:
            NotFound: there is none. SessionError: several apps have one. BackendError: a backend cannot be asked.
        """
        if self._ask(backend).find(app, name) is not None:
            return backend, app, name
        places = [key for key, session in self._sessions.items() if key[2] == name and session.channel.alive]
        for other in () if places else self.backends(backend):
            places += [place for place in self.running(other) if place[2] == name]
        if not places:
            self._forget((backend, app, name))
            raise NotFound(f"there is no session {name}: %skyrl_sessions lists them")
        if len(places) > 1:
            apps = ", ".join(f"{place[1]} ({place[0]})" for place in places)
            raise SessionError(f"sessions {name} run in several apps, {apps}: %config SkyRLMagic.app chooses one")
        return places[0]

    def stop(self, backend: str, app: str, name: str) -> None:
        """Stop the session: its runs end, the volume is committed, the container is gone on return.

        Raises:
            NotFound: the app has no session of this name.
        """
        key = (backend, app, name)
        session = self._sessions.get(key)
        sandbox = self._ask(backend).find(app, name)
        if sandbox is None:
            self._forget(key)
            raise NotFound(f"there is no session {name}: %skyrl_sessions lists them")
        if session is None or not session.channel.alive:
            session = _joined(name, sandbox)
        try:
            if session.channel.welcome.session == "":
                session.open()
            session.channel.request(protocol.StopSession, protocol.Done, timeout_s=15.0)
        except SessionError:
            pass  # it does not answer, or has gone: the container is ended all the same
        session.close()
        self._forget(key)
        sandbox.terminate()

    def reach(self, backend: str, progress: Progress) -> Backend:
        """Connect to the backend, where that was not done; what is waited for is shown. Raises BackendError."""
        if backend in self._used:
            return self._backend(backend)
        return wait_for(self._server(backend), lambda: self._ask(backend), progress)

    def _ask(self, backend: str) -> Backend:
        found = self._backend(backend)
        self._used.add(backend)
        return found

    def _running(self, backend: str) -> Sequence[Sandbox]:
        return self._ask(backend).list({_TAG: "session", "owner": owner()})

    def _row(self, backend: str, sandbox: Sandbox) -> SessionInfo | None:
        tags = _tags(sandbox)
        if not tags:
            return None
        session = self.get(backend, tags.get("app", ""), tags.get("session", ""))
        try:
            status = _status(tags, sandbox) if session is None else session.ask_status()
        except SessionError:
            if sandbox.poll() is not None:
                return None
            status = None
        return session_info(tags, backend, status)

    def _known(self, key: Place, request: SessionRequest) -> Session | None:
        session = self._sessions.get(key)
        if session is None or not session.channel.alive:
            return None
        _check_spec(session, request)
        _bring_checkout(session, request)
        return _watched(session)

    def _keep(self, key: Place, session: Session) -> Session:
        self._forget(key)
        self._sessions[key] = session
        return _watched(session)

    def _forget(self, key: Place) -> None:
        session = self._sessions.pop(key, None)
        if session is not None:
            session.close()

    def _join(
        self, backend: Backend, request: SessionRequest, name: str, progress: Progress | None = None
    ) -> Session | None:
        def find() -> Sandbox | None:
            return backend.find(request.spec.app, name)

        sandbox = find() if progress is None else wait_for(self._server(request.spec.backend), find, progress)
        if sandbox is None:
            return None
        try:
            session = _joined(name, sandbox)
        except (NotFound, SessionLost):  # it ended just now
            return None
        _check_spec(session, request)
        _bring_checkout(session, request)
        return session

    def _create(self, backend: Backend, request: SessionRequest, name: str, progress: Progress) -> Session:
        """Create the container; the checkout may change meanwhile.

        Modal refuses to upload a file that changed under its hands. What did is left out of the next try, and comes
        with the first run.
        """
        if request.checkout is None:
            return Session(name, request.spec, self._create_sandbox(backend, request, name, None, progress), None)
        sync = CheckoutSync(CheckoutReader(request.checkout))
        scan, moving = sync.reader.scan(), set[str]()
        for _ in range(_TRIES):
            try:
                upload = make_upload(request.checkout, scan, moving)
                sandbox = self._create_sandbox(backend, request, name, upload, progress)
            except AlreadyExists:
                raise
            except BackendError:
                again = sync.reader.scan()
                changed = {path for path in upload.paths if again.manifest.get(path) != scan.manifest[path]}
                if not changed:
                    raise
                scan, moving = again, moving | changed
            else:
                return Session(name, request.spec, sandbox, sync)
        raise CheckoutError(f"{min(moving)} and others change all the time: list them in .skyrlignore")

    def _create_sandbox(
        self, backend: Backend, request: SessionRequest, name: str, upload: Upload | None, progress: Progress
    ) -> Sandbox:
        spec = request.spec
        tags = spec.to_tags() | {_TAG: "session", "session": name, "owner": owner(), "started_at": f"{time.time():.0f}"}
        config = supervisor_config(name, timeout_s=spec.timeout_s, idle_timeout_s=request.idle_timeout_s, ray=spec.ray)
        wanted = SandboxRequest(
            name=name,
            spec=spec,
            tags=tags,
            command=[*contract.AGENT_COMMAND, "supervise", "--config", config],
            agent=self._build_agent(),
            upload=upload,
        )
        phases: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        future = self._pool.submit(backend.create, wanted, phases.put)
        future.add_done_callback(lambda _: phases.put(None))
        try:
            follow_phases(phases, progress)
            return future.result()
        except KeyboardInterrupt:
            future.add_done_callback(abandon)
            raise RunStopped(f"stopped while session {name} was starting; its container is being ended") from None


def _joined(name: str, sandbox: Sandbox) -> Session:
    tags = sandbox.tags()
    try:
        there = SessionSpec.from_tags(tags)
    except (KeyError, ValueError):
        raise SessionConflict(f"{name} is a sandbox of something else: choose another --session NAME") from None
    if tags.get("owner") != owner():
        raise SessionConflict(f"session {name} belongs to {tags.get('owner')}: choose another --session NAME")
    return Session(name, there, sandbox, None)


def _tags(sandbox: Sandbox) -> Mapping[str, str]:
    """A container's tags; none where it ended just now."""
    try:
        return sandbox.tags()
    except (NotFound, SessionLost):
        return {}


def _status(tags: Mapping[str, str], sandbox: Sandbox) -> protocol.Status:
    """What a session that is not open says of itself. Raises SessionError."""
    try:
        session = Session(tags["session"], SessionSpec.from_tags(tags), sandbox, None, QUICK)
    except (KeyError, ValueError):
        raise SessionError("a sandbox of something else") from None
    try:
        session.open()
        return session.status
    finally:
        session.close()


def _bring_checkout(session: Session, request: SessionRequest) -> None:
    """Let the session's checkout be kept in step; it may have been joined by who did not have it."""
    if session.sync is None and request.checkout is not None and session.spec.repo == str(request.checkout.root):
        session.sync = CheckoutSync(CheckoutReader(request.checkout))


def _watched(session: Session) -> Session:
    if session.sync is not None:
        session.sync.reader.watch()  # ends with the session's close
    return session


def _gone(session: Session, *, created: bool) -> bool:
    """Whether a session that did not come up ended by itself, so that another may take its name.

    Raises:
        SessionLost: it was created here; nothing of it is left. SessionError: it runs and does not answer.
    """
    if created:
        session.sandbox.terminate()
        return False
    if session.sandbox.poll() is None:
        raise SessionError(
            f"session {session.name} runs and does not answer: %skyrl_stop {session.name} ends it"
        ) from None
    return True


def _check_spec(session: Session, request: SessionRequest) -> None:
    there, wanted = session.spec.to_tags(), request.spec.to_tags()
    names = sorted(n for n in there.keys() | wanted.keys() if there.get(n) != wanted.get(n))
    if request.asked is not None:
        names = [name for name in names if name in request.asked]
    if not names:
        return
    differences = ", ".join(
        f"{spec_flag(n)} {spec_text(n, there.get(n))} (asked: {spec_text(n, wanted.get(n))})" for n in names
    )
    raise SessionConflict(
        f"session {session.name} runs with {differences}: "
        "leave the options out to use it, or choose another --session NAME"
    )
