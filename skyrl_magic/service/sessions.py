"""Sessions: one warm container for each spec and owner, found again, shared between notebooks, started when needed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import (
    AlreadyExists,
    BackendUnavailable,
    NotFound,
    SessionConflict,
    SessionError,
    SessionLost,
)
from skyrl_magic.core.ports import Backend, Sandbox, Volume
from skyrl_magic.core.session_tags import KIND
from skyrl_magic.service.commits import commit_first
from skyrl_magic.service.creation import Creation
from skyrl_magic.service.found import own_session, tags_in
from skyrl_magic.service.opening import open_new, wait_for_machine
from skyrl_magic.service.owners import asker, meet, take_problems
from skyrl_magic.service.patience import wait_for
from skyrl_magic.service.pricing import Pricing
from skyrl_magic.service.session import ENDED, Progress, Session
from skyrl_magic.service.session_info import SessionInfo, ask_status, session_info
from skyrl_magic.service.session_request import (
    Place,
    SessionRequest,
    bring_checkout,
    check_spec,
    check_timeouts,
)

#: How often a name that is taken and free by turns is tried.
_TRIES = 5
#: How long a session that was asked to stop may take before its container is ended under it, in seconds: its runs get
#: 5 s, its Python kernel 5 s, the kernel's relay 2 s, and what follows, with the last commit, 24 s
#: (``agent.supervisor``).
STOP_TIMEOUT_S = 36.0


T = TypeVar("T")


class SessionService:
    """Finds, starts, lists and stops sessions.

    Args:
        backend: gives the backend of a name. Raises BackendError.
        build_agent: writes the agent's zipapp and returns its path.
        server: says in a few words who answers for a backend, for who waits for it.
        pricing: says what a session costs.
    """

    def __init__(
        self,
        backend: Callable[[str], Backend],
        build_agent: Callable[[], Path],
        server: Callable[[str], str] = str,
        pricing: Pricing | None = None,
    ) -> None:
        self.pricing = pricing or Pricing()
        self._server = server
        self._backend = backend
        self._sessions: dict[Place, Session] = {}
        self._used: set[str] = set()
        self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="skyrl-create")
        self._creation = Creation(build_agent, self._pool, self.pricing)
        self._lock = threading.RLock()

    def close(self) -> None:
        """Leave all sessions; they and their runs go on."""
        for session in self._sessions.values():
            session.close()
        self._creation.close()
        self._sessions.clear()
        self._pool.shutdown(wait=False)

    def ensure(self, request: SessionRequest, progress: Progress) -> tuple[Session, bool]:
        """The session that is asked for, and whether it was started now.

        Raises:
            SessionConflict: the name belongs to another spec. SessionError, BackendError: it cannot be started.
            OptionError: it would have to be started, with a timeout beyond its hard one.
            RunStopped: interrupted meanwhile; a container under way is ended.
        """
        with self._lock:
            backend = self.reach(request.spec.backend, progress)  # its account says whose the session is
            known = self._known(request, progress)
            if known is not None:
                return known, False
            key = request.place
            self._forget(key)
            for _ in range(_TRIES):
                session = self._join(backend, request, progress)
                created = session is None
                try:
                    if session is None:
                        check_timeouts(request)
                        commit_first(self._writers(request), request.spec.volume, progress)
                        session = self._creation.create(backend, request, progress)
                        open_new(session, progress)
                    else:
                        session.open()
                except AlreadyExists:
                    continue
                except SessionLost:
                    if session is None or not _gone(session, created=created):
                        raise
                    continue  # it ended between being found and being asked
                return self._keep(key, session), created
        raise SessionError(f"session {key[2]} is being started and stopped all the time elsewhere: try --session OTHER")

    def join(self, request: SessionRequest) -> Session | None:
        """The session that is asked for, open as after :meth:`ensure`, where it runs; none is started.

        Raises:
            SessionConflict: the name belongs to another spec. SessionError: it does not answer. BackendError.
        """
        with self._lock:
            backend = self._ask(request.spec.backend)
            known = self._known(request)
            if known is not None:
                return known
            session = self._join(backend, request)
            if session is None:
                return None
            try:
                session.open()
            except SessionLost:
                _gone(session, created=False)
                return None
            return self._keep(request.place, session)

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

    def why_lost(self, request: SessionRequest) -> str:
        """Why the session that this process had for the request has ended; empty where it had none, or has it."""
        session = self._sessions.get(request.place)
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
        rows = self._pool.map(lambda sandbox: self._row(backend, sandbox), self.sandboxes(backend))
        return sorted((row for row in rows if row is not None), key=lambda row: row.age_s)

    def running(self, backend: str) -> Sequence[Place]:
        """Where the owner's running sessions are; asks none of them. Raises BackendError."""
        boxes = self.sandboxes(backend)
        found = self._pool.map(lambda sandbox: tags_in(sandbox, backend), boxes)
        return [(backend, box.app, tags.name) for box, tags in zip(boxes, found, strict=True) if tags is not None]

    def volume(self, backend: str, name: str) -> Volume:
        """A volume, read without a session. Raises BackendError."""
        return self._ask(backend).volume(name)

    def sandboxes(self, backend: str) -> Sequence[Sandbox]:
        """The running containers that are sessions, of whichever app, other owners' too. Raises BackendError."""
        return self._ask(backend).list(dict([KIND]))

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

    def stop(  # noqa: PLR0913, PLR0917  (where it is has three parts)
        self,
        backend: str,
        app: str,
        name: str,
        before_end: Callable[[Session], object] = lambda _: None,
        progress: Progress | None = None,
        container: str = "",
    ) -> None:
        """Stop the session: its runs end, the volume is committed, the container is gone on return.

        Args:
            backend: where it is, with ``app`` and ``name``.
            app: see ``backend``.
            name: see ``backend``.
            before_end: gets the session, open, while everything is still there; what it raises, but a SessionError,
                leaves the session as it is.
            progress: shows what is waited for where that takes long.
            container: the id of the one container that is meant; empty for whichever has the name.

        Raises:
            NotFound: the app has no session of this name, or its container is not the one that is meant.
        """
        key = (backend, app, name)
        session = self._sessions.get(key)
        sandbox = self._ask(backend).find(app, name)
        if sandbox is None:
            self._forget(key)
            had_ended = f"session {name} had ended before"
            raise NotFound(had_ended if container else f"there is no session {name}: %skyrl_sessions lists them")
        if container not in ("", sandbox.id):
            another = f"another one of this name runs, which %skyrl_stop {name} ends"
            raise NotFound(f"session {name} had ended before; {another}")
        if session is None or not session.channel.alive or session.sandbox.id != sandbox.id:
            session = own_session(name, sandbox, backend)
            if sandbox.is_queued():
                sandbox.terminate()
                return
        try:
            session.open()
            before_end(session)
            session.channel.request(lambda n: protocol.StopSession(n, asker(backend)), protocol.Done, timeout_s=15.0)
            self._await_end(session, progress)
        except SessionError:
            pass  # it does not answer, or has gone: the container is ended all the same
        except BaseException:
            if self._sessions.get(key) is not session:
                session.close()
            raise
        session.close()
        self._forget(key)
        sandbox.terminate()

    def _await_end(self, session: Session, progress: Progress | None) -> None:
        """Wait until the container has ended by itself, with its last commit, or takes too long."""
        if progress is None:
            session.channel.gone.wait(STOP_TIMEOUT_S)
            return
        what = f"the last commit of volume {session.spec.volume}"
        with contextlib.suppress(BackendUnavailable):
            wait_for(what, lambda: session.channel.gone.wait(STOP_TIMEOUT_S), progress, STOP_TIMEOUT_S)

    def _writers(self, request: SessionRequest) -> Sequence[Session]:
        """The sessions of this process that have the request's volume."""
        spec = request.spec
        return [
            session
            for session in self._sessions.values()
            if session.channel.alive and (session.spec.backend, session.spec.volume) == (spec.backend, spec.volume)
        ]

    def reach(self, backend: str, progress: Progress) -> Backend:
        """Connect to the backend, where that was not done; what is waited for is shown. Raises BackendError."""
        if backend in self._used:
            return self._backend(backend)
        found = self._asked(backend, lambda: self._ask(backend), progress)
        for text in take_problems():
            progress.note(text)
        return found

    def _ask(self, backend: str) -> Backend:
        found = self._backend(backend)
        if backend not in self._used:
            meet(found)
            self._used.add(backend)
        return found

    def _row(self, backend: str, sandbox: Sandbox) -> SessionInfo | None:
        tags = tags_in(sandbox, backend)
        if tags is None:
            return None
        place = (backend, sandbox.app, tags.name)
        session = self.get(*place)
        status, spec, queued = None, tags.spec, False
        try:
            if session is None and sandbox.is_queued():
                queued = True
            elif session is None:
                status, spec = ask_status(tags, sandbox, backend)
            else:
                status, spec = session.ask_status(), session.spec
        except SessionError:
            if sandbox.poll() is not None:
                return None
        return session_info(tags, place, spec, status, queued=queued)

    def _known(self, request: SessionRequest, progress: Progress | None = None) -> Session | None:
        session = self._sessions.get(request.place)
        if session is None or not session.channel.alive:
            return None
        try:
            check_spec(session, request)
        except SessionConflict:
            if self._has_ended(session, progress):
                return None
            raise
        bring_checkout(session, request)
        return _watched(session)

    def _has_ended(self, session: Session, progress: Progress | None) -> bool:
        """Whether its container is gone, which its channel may not have noticed yet."""
        try:
            return self._asked(session.spec.backend, session.sandbox.poll, progress) is not None
        except (NotFound, SessionLost):
            return True

    def _asked(self, backend: str, question: Callable[[], T], progress: Progress | None) -> T:
        """What the backend's server answers; who waits for it sees that, where there is a ``progress``."""
        return question() if progress is None else wait_for(self._server(backend), question, progress)

    def _keep(self, key: Place, session: Session) -> Session:
        self._forget(key)
        self._sessions[key] = session
        return _watched(session)

    def _forget(self, key: Place) -> None:
        session = self._sessions.pop(key, None)
        if session is not None:
            session.close()

    def _join(self, backend: Backend, request: SessionRequest, progress: Progress | None = None) -> Session | None:
        where, app, name = request.place
        sandbox = self._asked(where, lambda: backend.find(app, name), progress)
        if sandbox is None:
            return None
        try:
            session = own_session(name, sandbox, where, request.spec)
            if self._asked(where, sandbox.is_queued, progress):
                wait_for_machine(session, progress)
        except (NotFound, SessionLost):  # it ended just now
            return None
        if not session.spec_is_known:
            try:
                session.open()
            except SessionLost:
                _gone(session, created=False)
                return None
        check_spec(session, request)
        bring_checkout(session, request)
        return session


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
