"""The owner's running sessions in a notebook: ``%skyrl_sessions`` and ``%skyrl_stop``, over every app."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import BackendError, NotFound, OptionError, SkyRLMagicError
from skyrl_magic.core.options import unknown_flag
from skyrl_magic.core.protocol.durations import duration_text
from skyrl_magic.service.logs import runs_that_go_on
from skyrl_magic.service.results import unkept_text
from skyrl_magic.service.session import Session
from skyrl_magic.service.session_info import QUEUED, SessionInfo
from skyrl_magic.service.session_request import Place
from skyrl_magic.service.sessions import SessionService
from skyrl_magic.ui.cost import money_columns
from skyrl_magic.ui.display import note
from skyrl_magic.ui.notebook import Notebook
from skyrl_magic.ui.progress import CellProgress
from skyrl_magic.ui.session_notes import late_volume_text
from skyrl_magic.ui.tables import Table, checkout_text, shortened, size_text

ALL = "--all"
#: So much of a command that ended with its session is named.
_COMMAND_CHARS = 40


class Running:
    """Lists and stops sessions.

    Args:
        sessions: of the owner.
        notebook: who asks.
    """

    def __init__(self, sessions: SessionService, notebook: Notebook) -> None:
        self._sessions, self._notebook = sessions, notebook

    def reach(self, backend: str) -> None:
        """Connect to the backend; who waits for it sees that. Raises BackendError."""
        progress = CellProgress()
        try:
            self._sessions.reach(backend, progress)
        finally:
            progress.end(None)

    def table(self, here: Place, *, is_current: bool) -> Table:
        """All that run; the app has a column where it is not the current one alone.

        Args:
            here: where the current session is, or the first one would be.
            is_current: it is the current one, and is marked.
        """
        self.reach(here[0])
        found = [info for backend in self._sessions.backends(here[0]) for info in self._listed(backend, here)]
        elsewhere = any(info.app != here[1] for info in found)
        money, spent = money_columns(found)
        rows = [
            (
                ("* " if is_current and info.place == here else "") + info.name,
                *((info.app,) if elsewhere else ()),
                info.backend,
                info.gpu,
                info.state,
                duration_text(info.age_s),
                _ends_text(info),
                *usd,
                checkout_text(info.repo, *(other.repo for other in found)),
            )
            for info, usd in zip(found, spent, strict=True)
        ]
        app = ("app",) if elsewhere else ()
        columns = ("session", *app, "backend", "GPU", "state", "age", "ends in", *money, "checkout")
        late = [late_volume_text(volume) for volume in sorted({info.late_volume for info in found} - {""})]
        return Table(columns, rows, f"no sessions run on the {here[0]} backend", late)

    def stop(self, names: Sequence[str], had: tuple[Place, str] | None, here: Callable[[], Place]) -> Sequence[Place]:
        """Stop the sessions of these names, the current one, or with ``--all`` all; where those were.

        Args:
            names: the words of the line.
            had: the current session, and the id of the container that it had in this notebook.
            here: where a cell without options goes.

        Raises:
            OptionError: a wrong line, or one without a name that would end runs of other notebooks.
            NotFound: no session of a name, after the others were stopped.
            SkyRLMagicError: one cannot be stopped, after the others were.
        """
        flags = [name for name in names if name.startswith("-")]
        unknown = [flag for flag in flags if flag != ALL]
        if unknown:
            raise unknown_flag(unknown[0], [ALL])
        if flags and len(names) > 1:
            raise OptionError(f"{ALL} stops every session: leave the names out")
        if flags:
            return self._stop_all(here())
        if names:
            return self._stop_named(dict.fromkeys(names), here())
        if had is None:
            raise NotFound(f"this notebook is in no session yet: %skyrl_stop NAME ends one{self._running_now(here())}")
        current, container = had
        self.reach(current[0])
        try:
            self._stop(current, container)
        except NotFound as error:
            note(str(error))
        return [current]

    def _stop(self, place: Place, container: str = "") -> None:
        """Stop a session, and say so.

        With a container's id only that one is meant, and only where no runs of other notebooks go on.

        Raises NotFound, OptionError, BackendError.
        """
        ended: list[protocol.RunSummary] = []

        def look(session: Session) -> None:
            ended.extend(runs_that_go_on(session))
            theirs = self._of_others(ended)
            if container and theirs:
                raise _others_go_on(theirs, place[2])
            _note_unkept(session)

        progress = CellProgress()
        try:
            self._sessions.stop(*place, look, progress, container)
        finally:
            progress.end(None)
        theirs = self._of_others(ended)
        own = [run for run in ended if run not in theirs]
        with_it = [_runs_text(own)] if own else []
        with_it += [f"of {_notebooks(theirs)} {_runs_text(theirs)}"] if theirs else []
        note(f"session {place[2]} is stopped" + (f", and with it {', and '.join(with_it)}" if with_it else ""))

    def _of_others(self, runs: Sequence[protocol.RunSummary]) -> Sequence[protocol.RunSummary]:
        """Those of the runs that other notebooks have started."""
        return [run for run in runs if run.notebook not in ("", self._notebook.key)]

    def _stop_named(self, names: Iterable[str], here: Place) -> Sequence[Place]:
        self.reach(here[0])
        stopped: list[Place] = []
        missing: list[str] = []
        errors: list[SkyRLMagicError] = []
        for name in names:
            try:
                place = self._sessions.locate(here[0], here[1], name)
                self._stop(place)
            except NotFound:
                missing.append(name)
            except SkyRLMagicError as error:
                errors.append(error)
            else:
                stopped.append(place)
        if missing:
            errors.append(NotFound(f"there is no session {', '.join(missing)}: %skyrl_sessions lists them"))
        if errors:
            raise type(errors[0])("; ".join(map(str, errors)))
        return stopped

    def _running_now(self, here: Place) -> str:
        """The names of the owner's sessions as the end of a line; empty without any. Raises BackendError."""
        self.reach(here[0])
        names = ", ".join(place[2] for place in self._sessions.running(here[0]))
        return f" ({names})" if names else ""

    def _listed(self, backend: str, here: Place) -> Sequence[SessionInfo]:
        """A backend's sessions; one that this notebook used before, and that cannot be asked, is told of."""
        try:
            return self._sessions.list(backend)
        except BackendError as error:
            if backend == here[0]:
                raise
            note(f"the {backend} backend cannot be asked: {error}")
            return ()

    def _stop_all(self, here: Place) -> Sequence[Place]:
        """Stop whatever runs, in every app of the current backend and of those that this notebook used; where it was.

        Raises:
            SkyRLMagicError: the first that was refused, after everything else was stopped.
        """
        places: list[Place] = []
        errors: list[SkyRLMagicError] = []
        for backend in self._sessions.backends(here[0]):
            try:
                self.reach(backend)
                places += self._sessions.running(backend)
            except SkyRLMagicError as error:
                errors.append(error)
        for place in places:
            try:
                self._stop(place)
            except NotFound:  # it ended meanwhile
                continue
            except SkyRLMagicError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        if not places:
            note("no session was running")
        return places


def _ends_text(info: SessionInfo) -> str:
    if info.state == QUEUED:  # its time has not begun
        return ""
    when = "?" if info.ends_in_s is None else duration_text(info.ends_in_s)
    return when + " if idle" * info.ends_idle + " (budget)" * info.ends_spent


def _runs_text(runs: Sequence[protocol.RunSummary]) -> str:
    """``run a (sleep 300)``, ``runs a (sleep 300), b (sleep 301)``."""
    texts = ", ".join(f"{run.run_id} ({shortened(run.command, _COMMAND_CHARS)})" for run in runs)
    return f"run{'s' * (len(runs) > 1)} {texts}"


def _notebooks(runs: Sequence[protocol.RunSummary]) -> str:
    return "another notebook" if len({run.notebook for run in runs}) == 1 else "other notebooks"


def _others_go_on(theirs: Sequence[protocol.RunSummary], session: str) -> OptionError:
    go_on, them = ("goes on", "it") if len(theirs) == 1 else ("go on", "them")
    whose = f"{_runs_text(theirs)} of {_notebooks(theirs)} {go_on} in session {session}"
    return OptionError(f"{whose}: %skyrl_stop {session} ends {them} all the same")


def _note_unkept(session: Session) -> None:
    """Say what ends with a session: its container is still there when the line comes."""
    text = unkept_text(session, size_text)
    if text:
        note(text)
