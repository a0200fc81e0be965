"""Which session holds a run: also one that a notebook started before its kernel was restarted, or another notebook."""

from __future__ import annotations

import contextlib

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import SessionError, UnknownRun
from skyrl_magic.service import logs
from skyrl_magic.service.session import Session
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.service.sessions import SessionService

Found = tuple[Session, protocol.RunSummary]


def last_run(
    sessions: SessionService, request: SessionRequest, notebook: str, *, going_on_first: bool = False
) -> Found:
    """The last run of a notebook in the owner's sessions that live.

    A kernel that was restarted does not know in which sessions its notebook ran something.

    Args:
        sessions: joins sessions that run; none is started, and only the run's stays open of those that were not.
        request: what a cell without options asks for.
        notebook: stands for the notebook that asks, as in ``core.protocol.StartRun``.
        going_on_first: a run that goes on is meant before one that has ended.

    Raises:
        UnknownRun: it has none there. BackendError: one cannot ask.
    """

    def rank(found: Found) -> tuple[bool, float]:
        return going_on_first and found[1].state != logs.ENDED, found[1].started_at

    places = [place for backend in sessions.backends(request.spec.backend) for place in sessions.running(backend)]
    candidates: list[Found] = []
    opened: list[Session] = []
    for place in places:
        was_open = sessions.get(*place) is not None
        with contextlib.suppress(SessionError):
            session = sessions.join(request.at(place))
            if session is None:
                continue
            opened += [] if was_open else [session]
            candidates += [(session, run) for run in logs.all_runs(session) if run.notebook == notebook]
    found = max(candidates, key=rank, default=None)
    for session in opened:
        if found is None or session is not found[0]:
            sessions.leave(session)
    if found is None:
        raise UnknownRun("this notebook has no run in a session that lives: %skyrl_runs --all lists all runs")
    return found
