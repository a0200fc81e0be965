"""Which session holds a run: also one that a notebook started before its kernel was restarted, or another notebook."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import SessionError, UnknownRun
from skyrl_magic.service import logs
from skyrl_magic.service.session import Session
from skyrl_magic.service.session_request import Place, SessionRequest
from skyrl_magic.service.sessions import SessionService

Found = tuple[Session, protocol.RunSummary]
#: Picks a run of a session's, or none of them.
Choose = Callable[[Sequence[protocol.RunSummary]], protocol.RunSummary | None]
#: ``RunSummary.state`` of a run that is over.
ENDED = "ended"


def find_run(
    sessions: SessionService, request: SessionRequest, run_id: str, notebook: str = "", *, going_on_first: bool = False
) -> Found:
    """A run and its session, which stays open.

    Args:
        sessions: joins sessions that run; none is started, and those without the run are left again.
        request: what a cell without options asks for; that session is asked first, then all of the owner's.
        run_id: the run's id; empty for the last run of the owner's sessions, first of those of the same notebook and
            then of the same checkout.
        notebook: stands for the notebook that asks, as in ``core.protocol.StartRun``.
        going_on_first: without an id, a run that goes on is meant before one that has ended.

    Raises:
        UnknownRun: there is no such run where it was looked for. SessionError, BackendError: one cannot ask.
    """
    places = [place for backend in sessions.backends(request.spec.backend) for place in sessions.running(backend)]
    if not run_id:
        return _last_run(sessions, request, places, notebook, going_on_first=going_on_first)
    silent = []
    for place in sorted(places, key=lambda place: place != request.place):
        try:
            found = _run_of(
                sessions,
                request.at(place),
                lambda runs: next((run for run in runs if run.run_id == run_id), None),
            )
        except SessionError:
            silent.append(place[2])
        else:
            if found is not None:
                return found
    also = f" ({', '.join(silent)}: no answer)" if silent else ""
    raise UnknownRun(f"no run {run_id} is known here: a log ends with its session; %skyrl_sessions shows yours{also}")


def _last_run(
    sessions: SessionService, request: SessionRequest, places: Iterable[Place], notebook: str, *, going_on_first: bool
) -> Found:
    """A kernel that was restarted does not know in which sessions its notebook ran something."""

    def is_own(run: protocol.RunSummary) -> bool:
        return bool(notebook) and run.notebook == notebook

    def rank(run: protocol.RunSummary) -> tuple[bool, bool, float]:
        return is_own(run), going_on_first and run.state != ENDED, run.started_at

    candidates: list[Found] = []
    opened: list[Session] = []
    for place in places:
        was_open = sessions.get(*place) is not None
        with contextlib.suppress(SessionError):
            found = _run_of(sessions, request.at(place), lambda runs: max(runs, key=rank, default=None))
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


def _run_of(sessions: SessionService, request: SessionRequest, choose: Choose) -> Found | None:
    was_open = sessions.get(request.spec.backend, request.spec.app, request.name or "") is not None
    session = sessions.join(request)
    if session is None:
        return None
    run = None
    try:
        run = choose(logs.all_runs(session))
    finally:
        if run is None and not was_open:
            sessions.leave(session)
    return None if run is None else (session, run)
