"""Every run that is known: of the sessions that live, and of those that wrote to the volume."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import BackendError, NotFound, SessionError, UnknownRun
from skyrl_magic.core.ports import Sandbox
from skyrl_magic.service import logs
from skyrl_magic.service.archive import ArchivedRun, archived_runs
from skyrl_magic.service.found import tags_in
from skyrl_magic.service.owners import Owner, owner
from skyrl_magic.service.run_log import LiveLog, RunLog, VolumeLog
from skyrl_magic.service.run_names import is_place, resolve
from skyrl_magic.service.session import Session
from skyrl_magic.service.session_info import asked
from skyrl_magic.service.session_request import Place, SessionRequest
from skyrl_magic.service.sessions import SessionService

#: How many sessions are asked at once.
_AT_ONCE = 16

#: Words for where a run stands; ``%skyrl_runs --state`` takes them.
WAITING, RUNNING, ENDED, FAILED, STOPPED, LOST = STATES = ("waiting", "running", "ended", "failed", "stopped", "lost")
#: A run of a session that lives and does not answer, or that is another owner's.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class KnownRun:
    """A run, and where it is known."""

    summary: protocol.RunSummary
    session: str
    """The session's name."""
    place: Place | None
    """The session that lives and has it; None where the volume alone does."""
    archived: ArchivedRun | None = None
    """The run as it is on the volume; None where that has nothing of it."""
    state: str = RUNNING
    """One of :data:`STATES`, or :data:`UNKNOWN`."""
    detail: str = ""
    """The exit code, the signal, or why its session ended it."""
    mine: bool = True
    """Its session is the owner's."""

    @property
    def run_id(self) -> str:
        """Its id."""
        return self.summary.run_id

    @property
    def owner(self) -> str:
        """Whose session it is, of one that is not the owner's."""
        return "" if self.archived is None else Owner(self.archived.session.owner).name


@dataclass(frozen=True)
class KnownRuns:
    """All of them, newest first, and who could not be asked."""

    runs: Sequence[KnownRun]
    silent: Sequence[str] = field(default=())
    """One line for each session, or volume, that did not answer."""


def known_runs(sessions: SessionService, request: SessionRequest) -> KnownRuns:
    """The runs of the owner's sessions that live, and all those on the current volume; no session is started.

    Args:
        sessions: asks sessions; those that are not open are left again.
        request: what a cell without options asks for: names the backend and the volume.

    Raises:
        BackendError: the backend cannot be asked.
    """
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="skyrl-runs") as pool:
        archive = pool.submit(_archived, sessions, request)
        asking, silent = [], []
        for backend in sessions.backends(request.spec.backend):
            try:
                asking += [pool.submit(_runs_in, sessions, backend, box) for box in sessions.sandboxes(backend)]
            except BackendError as error:
                if backend == request.spec.backend:
                    raise
                silent.append(("", f"the {backend} backend: {error}"))
        answers = [answer.result() for answer in asking]
        archived, problem = archive.result()
    live = [(answer.place, run) for answer in answers for run in answer.runs]
    silent += [(answer.place[2], answer.problem) for answer in answers if answer.problem]
    names = {name for name, _ in silent}
    there = {run.run_id: run for run in archived}
    runs = [_of_live(summary, place, there.pop(summary.run_id, None)) for place, summary in live]
    me = owner(request.spec.backend)
    runs += [_of_archive(run, names, mine=me.owns(run.session.owner)) for run in there.values()]
    runs.sort(key=lambda run: run.summary.started_at, reverse=True)
    return KnownRuns(runs, [line for _, line in silent] + problem)


def find_log(sessions: SessionService, request: SessionRequest, text: str, notebook: str) -> RunLog:
    """The log of the run that ``text`` names (``service.run_names``): from its container where that lives.

    ``notebook`` stands for the one that asks: ``-1`` is the last of its runs, and never another's.

    Raises:
        UnknownRun: there is none, or nothing of its log. SessionError, BackendError: one cannot ask.
    """
    known = known_runs(sessions, request)
    mine = [run for run in known.runs if run.mine or run.run_id == text]
    own = [run for run in mine if run.summary.notebook == notebook]
    if is_place(text) and not own:
        going_on = [run.run_id for run in mine if run.state in (WAITING, RUNNING)]
        beside = f"; other notebooks' that go on: {', '.join(going_on)}" if going_on else ""
        problem = f"this notebook has started no run{beside}: %skyrl_runs --all lists all runs"
        raise UnknownRun("; ".join([problem, *known.silent]))
    try:
        run_id = resolve(text, [run.run_id for run in (own if is_place(text) else mine)])
    except UnknownRun as error:
        raise UnknownRun("; ".join([str(error), *known.silent])) from None
    return open_log(sessions, request, next(run for run in mine if run.run_id == run_id))


def runs_that_go_on(sessions: SessionService, request: SessionRequest, notebook: str) -> tuple[list[str], list[str]]:
    """The ids of the owner's runs that go on, newest first: a notebook's, and the others. Raises BackendError."""
    runs = [run.summary for run in known_runs(sessions, request).runs if run.state in (WAITING, RUNNING)]
    own = [run.run_id for run in runs if run.notebook == notebook]
    return own, [run.run_id for run in runs if run.notebook != notebook]


def living(log: RunLog) -> tuple[Session, protocol.RunSummary]:
    """The run of a log, and its session. Raises UnknownRun where that has ended."""
    if not isinstance(log, LiveLog):
        run_id = log.run.run_id
        raise UnknownRun(f"run {run_id} is over, and its session too: %skyrl_logs {run_id} shows its output")
    return log.session, log.run


def open_log(sessions: SessionService, request: SessionRequest, run: KnownRun) -> RunLog:
    """The log of a run that is known. Raises as :func:`find_log`."""
    if run.place is not None:
        session = sessions.join(request.at(run.place))
        if session is not None:
            return LiveLog(session, logs.summary(session, run.run_id))
    return volume_log(sessions, request.spec.backend, request.spec.volume, run.run_id, run.archived)


def volume_log(
    sessions: SessionService, backend: str, volume_name: str, run_id: str, run: ArchivedRun | None = None
) -> VolumeLog:
    """A run's log as it is on a volume. Raises UnknownRun where nothing of it is there, BackendError."""
    volume = sessions.volume(backend, volume_name)
    if run is None:
        run = next((found for found in archived_runs(volume) if found.run_id == run_id), None)
    if run is None:
        raise UnknownRun(
            f"nothing of run {run_id} is on volume {volume_name}: its session has ended, or its log was pruned"
        )
    return VolumeLog(volume, run)


def _archived(sessions: SessionService, request: SessionRequest) -> tuple[list[ArchivedRun], list[str]]:
    volume = request.spec.volume
    try:
        return archived_runs(sessions.volume(request.spec.backend, volume)), []
    except BackendError as error:
        return [], [f"volume {volume}: {error}"]


@dataclass(frozen=True)
class _Answer:
    """What a session says of its runs; nothing where it has ended."""

    place: Place
    runs: Sequence[protocol.RunSummary] = ()
    problem: str = ""


def _runs_in(sessions: SessionService, backend: str, sandbox: Sandbox) -> _Answer:
    tags = tags_in(sandbox, backend)
    place = (backend, sandbox.app, "" if tags is None else tags.name)
    if tags is None:
        return _Answer(place)
    session = sessions.get(*place)
    try:
        if session is None and sandbox.is_queued():  # it has run nothing yet
            return _Answer(place)
        if session is None:
            return _Answer(place, asked(tags, sandbox, backend, logs.all_runs))
        return _Answer(place, logs.all_runs(session))
    except (SessionError, BackendError) as error:
        with contextlib.suppress(NotFound, SessionError):
            if sandbox.poll() is None:
                return _Answer(place, problem=f"session {place[2]} does not answer: {error}")
        return _Answer(place)


def _of_live(run: protocol.RunSummary, place: Place, archived: ArchivedRun | None) -> KnownRun:
    word, detail = stands(run) if run.state == "ended" else (run.state, "")
    return KnownRun(run, place[2], place, archived, word, detail)


def _of_archive(run: ArchivedRun, silent: set[str], *, mine: bool) -> KnownRun:
    session = run.session
    if run.ended:
        word, detail = stands(run.summary)
    elif session.may_live(time.time()) and (session.name in silent or not mine):
        word, detail = UNKNOWN, ""
    else:
        word, detail = LOST, ""
    return KnownRun(run.summary, session.name, None, run, word, detail, mine)


def stands(run: protocol.RunSummary) -> tuple[str, str]:
    """Of a run that is over: ``ended``, ``failed`` or ``stopped``, and its exit code, the signal, or what ended it."""
    if run.reason:
        return STOPPED, run.reason
    handled = run.kind == protocol.PYTHON and not run.exit_code  # a cell that takes KeyboardInterrupt goes on
    if run.cancelled and not handled:
        return STOPPED, run.cancelled
    return (FAILED if run.exit_code else ENDED), str(run.exit_code or 0)
