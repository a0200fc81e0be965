"""Which log a notebook's line means: of a run of its own, of another session's, or on the volume."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from skyrl_magic.core.errors import SessionLost, SessionUnreachable, UnknownRun
from skyrl_magic.service.archive import missing_line
from skyrl_magic.service.find_run import last_run
from skyrl_magic.service.logs import summary
from skyrl_magic.service.owners import owner
from skyrl_magic.service.run_list import find_log, volume_log
from skyrl_magic.service.run_log import LiveLog, RunLog, VolumeLog
from skyrl_magic.service.run_names import resolve
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.service.sessions import SessionService
from skyrl_magic.ui.display import note
from skyrl_magic.ui.notebook import Notebook
from skyrl_magic.ui.tables import clock_text


def find_notebook_log(
    text: str, notebook: Notebook, sessions: SessionService, make_request: Callable[[], SessionRequest]
) -> RunLog:
    """The log that is meant, with a line that says so where it is not in a container of this notebook.

    Args:
        text: a run as ``service.run_names`` takes it; empty for the last run.
        notebook: knows in which session it ran what.
        sessions: finds the others.
        make_request: what a cell without options asks for.

    Raises:
        UnknownRun: there is none, or nothing of its log. SessionError, BackendError: one cannot ask.
    """
    run_id = text or next(iter(notebook.own_runs), "")
    with contextlib.suppress(UnknownRun):  # perhaps another notebook's, or of a kernel before this one
        run_id = resolve(run_id, notebook.own_runs)
    session = notebook.runs.get(run_id)
    if session is not None and session.channel.alive:
        try:
            return LiveLog(session, summary(session, run_id))
        except SessionUnreachable:
            raise
        except SessionLost:
            pass
    if session is not None:
        backend, volume = session.spec.backend, session.spec.volume
        return _told(volume_log(sessions, backend, volume, run_id), backend, volume)
    request = make_request()
    log = _last(sessions, request, notebook.key) if not run_id else find_log(sessions, request, run_id, notebook.key)
    return _told(log, request.spec.backend, request.spec.volume) if isinstance(log, VolumeLog) else log


def _last(sessions: SessionService, request: SessionRequest, key: str) -> RunLog:
    """The last run of this notebook, in a session that lives or on the volume. Raises UnknownRun."""
    try:
        return LiveLog(*last_run(sessions, request, key))
    except UnknownRun:
        return find_log(sessions, request, "-1", key)


def _told(log: VolumeLog, backend: str, volume: str) -> VolumeLog:
    """Say where the log comes from, and what of it may be missing."""
    session = log.archived.session
    gone = "is gone"
    if session.ended_at is not None:
        gone = f"ended at {clock_text(session.ended_at)} ({session.reason})"
    note(f"run {log.run.run_id}: session {session.name} {gone}; its log is on volume {volume}")
    dead = owner(backend).owns(session.owner) or not session.may_live(time.time())  # the owner's own were asked
    missing = missing_line(log.archived, log.journal, dead=dead)
    if missing:
        note(missing)
    return log
