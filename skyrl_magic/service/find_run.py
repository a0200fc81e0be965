"""Which session holds a run: also one that a notebook started before its kernel was restarted, or another notebook."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import SessionError, UnknownRun
from skyrl_magic.service import logs
from skyrl_magic.service.session import Session
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.service.sessions import SessionService

Found = tuple[Session, protocol.RunSummary]
#: Of a run: the greater, the nearer it is to what is meant.
Rank = Callable[[protocol.RunSummary], tuple[bool, bool, float]]


def last_run(
    sessions: SessionService, request: SessionRequest, notebook: str, *, going_on_first: bool = False
) -> Found:
    """The last run of the owner's sessions that live, first of those of the same notebook, then of the same checkout.

    A kernel that was restarted does not know in which sessions its notebook ran something.

    Args:
        sessions: joins sessions that run; none is started, and only the run's stays open of those that were not.
        request: what a cell without options asks for.
        notebook: stands for the notebook that asks, as in ``core.protocol.StartRun``.
        going_on_first: a run that goes on is meant before one that has ended.

    Raises:
        UnknownRun: there is none. BackendError: one cannot ask.
    """

    def is_own(run: protocol.RunSummary) -> bool:
        return run.notebook == notebook

    def rank(run: protocol.RunSummary) -> tuple[bool, bool, float]:
        return is_own(run), going_on_first and run.state != logs.ENDED, run.started_at

    places = [place for backend in sessions.backends(request.spec.backend) for place in sessions.running(backend)]
    candidates: list[Found] = []
    opened: list[Session] = []
    for place in places:
        was_open = sessions.get(*place) is not None
        with contextlib.suppress(SessionError):
            found = _run_of(sessions, request.at(place), rank)
            if found is not None:
                candidates.append(found)
                opened += [] if was_open else [found[0]]
    if not candidates:
        raise UnknownRun("no session of yours that lives has a run: %skyrl_runs shows those that have ended too")
    session, run = max(
        candidates, key=lambda found: (is_own(found[1]), found[0].spec.repo == request.spec.repo, rank(found[1]))
    )
    for other in opened:
        if other is not session:
            sessions.leave(other)
    return session, run


def _run_of(sessions: SessionService, request: SessionRequest, rank: Rank) -> Found | None:
    """The run of a session with the highest rank."""
    was_open = sessions.get(*request.place) is not None
    session = sessions.join(request)
    if session is None:
        return None
    run = None
    try:
        run = max(logs.all_runs(session), key=rank, default=None)
    finally:
        if run is None and not was_open:
            sessions.leave(session)
    return None if run is None else (session, run)
