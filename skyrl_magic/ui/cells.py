"""What the magics do, with its display: choose and start the session, run the cell, show how it ended."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from skyrl_magic.core.errors import NotFound, OptionError, RunStopped, SessionConflict, UnknownRun
from skyrl_magic.core.expand import Evaluate
from skyrl_magic.core.options import Given
from skyrl_magic.core.protocol import PYTHON, SHELL
from skyrl_magic.core.protocol.durations import duration_text
from skyrl_magic.core.spec import RunRequest, RunRules
from skyrl_magic.service.find_run import Found, last_run
from skyrl_magic.service.kernel import ask_kernel, ensure_kernel, restart_kernel
from skyrl_magic.service.logs import ENDED, all_runs, summary
from skyrl_magic.service.run_list import find_log, known_runs, living, runs_that_go_on
from skyrl_magic.service.run_log import RunLog
from skyrl_magic.service.run_names import resolve as resolve_run
from skyrl_magic.service.session import Session
from skyrl_magic.service.session_choice import Choice, Used, changes, choose
from skyrl_magic.service.session_request import SessionRequest, check_timeouts, request_of
from skyrl_magic.service.settings import Resolved, resolve
from skyrl_magic.service.watch import readable
from skyrl_magic.ui.background import RunHandle
from skyrl_magic.ui.cost import check_budget, end_before, rows_of, set_live
from skyrl_magic.ui.display import note
from skyrl_magic.ui.dry_run import dry_run_text
from skyrl_magic.ui.find_logs import find_notebook_log
from skyrl_magic.ui.front_end import can_ask
from skyrl_magic.ui.local_notes import local_notes
from skyrl_magic.ui.logs import show_logs
from skyrl_magic.ui.notebook import Notebook, Services
from skyrl_magic.ui.outcome import Outcome
from skyrl_magic.ui.progress import CellProgress
from skyrl_magic.ui.remote_outputs import RemoteOutputs
from skyrl_magic.ui.run_cells import RunCells
from skyrl_magic.ui.running import Running
from skyrl_magic.ui.runs import RunsAsked, runs_table
from skyrl_magic.ui.session_notes import note_another, note_large, note_runs, note_volume, ready_line
from skyrl_magic.ui.tables import Table, checkout_text
from skyrl_magic.ui.variables import Variables


class Cells:
    """The use cases of one notebook.

    Args:
        services: what they call.
        rules: the notebook's settings that concern runs, as they are now.
    """

    def __init__(self, services: Services, rules: Callable[[], RunRules] = RunRules) -> None:
        self._services, self._rules = services, rules
        self._outputs = RemoteOutputs()
        self.notebook = Notebook()
        self._running = Running(services.sessions, self.notebook)
        self._run_cells = RunCells(services, self.notebook, self._outputs)

    def close(self) -> None:
        """Close the channels; sessions and runs go on."""
        self._outputs.comms.close()
        self._services.close()

    def session_names(self) -> list[str]:
        """The names of the sessions that this notebook has open."""
        return self._services.sessions.open_names()

    def describe(self, given: Given, config: Given, folder: Path, command: str) -> str:
        """What ``--dry-run`` prints: the resolved spec and the run; touches nothing but the checkout's folders."""
        request, resolved = self._request(given, config, folder)
        if self._services.sessions.get(*request.place) is None:
            check_timeouts(request)
        cost = rows_of(request, self._services.sessions.pricing)
        return dry_run_text(request, resolved, given, folder, command, cost)

    def start(self, given: Given, config: Given, folder: Path) -> str:
        """Start or find the session that is asked for, with its Python kernel if that is too; the line that says so."""
        session, line = self._session(given, config, folder)
        if given.python:
            ensure_kernel(session, given.uv or "")
        if not line:
            line = f"session {session.name} is running"
            note(line)
        return line

    def run(
        self, given: Given, config: Given, folder: Path, command: str, variables: Variables | None = None
    ) -> Outcome:
        """Run a cell's command and show its output; the outcome has its error, which is not raised here."""
        variables = variables or Variables()
        request = self._run_request(given, command, variables)
        return self._run_cells.run(request, variables, lambda: self._session(given, config, folder)[0])

    def run_in_background(  # noqa: PLR0913, PLR0917  (as run, and where variables go)
        self,
        given: Given,
        config: Given,
        folder: Path,
        command: str,
        variables: Variables,
        assign: Callable[[dict[str, object]], None],
    ) -> RunHandle:
        """Start a cell's command and return at once. Raises SkyRLMagicError where it does not start."""
        request = replace(self._run_request(given, command, variables), allow_stdin=False)
        return self._run_cells.background(request, variables, lambda: self._session(given, config, folder)[0], assign)

    def attach(self, run: str, config: Given, folder: Path, *, from_start: bool) -> Outcome:
        """Go on with a run in this cell. Raises UnknownRun, SessionError."""
        found = self._find_run(run, config, folder)
        if found[1].notebook not in ("", self.notebook.key):
            note(f"run {found[1].run_id} is another notebook's: ■ stops it there too")
        return self._run_cells.attach(found, self._rules(), from_start=from_start)

    def cancel(self, runs: Sequence[str], session: str | None, config: Given, folder: Path) -> None:
        """End runs, with ``session`` all of one, or else the one that goes on. Raises UnknownRun, SessionError."""
        if session is None:
            found = [self._find_run(run, config, folder) for run in runs or self._only_run(config, folder)]
        else:
            there = self._joined(Given(session=session), config, folder, "cancel runs of")
            found = [(there, run) for run in all_runs(there) if run.state != ENDED]
            if not found:
                note(f"nothing runs in session {there.name}")
        self._run_cells.cancel(found, self._rules().grace_s)

    def _only_run(self, config: Given, folder: Path) -> list[str]:
        """The one run of this notebook's that goes on."""
        request, _ = self._reached(config, folder)
        own, others = runs_that_go_on(self._services.sessions, request, self.notebook.key)
        if len(own) == 1:
            return own
        if own:
            raise UnknownRun(f"{len(own)} runs of this notebook go on: name those to stop ({', '.join(own)})")
        if others:
            names = ", ".join(others)
            raise UnknownRun(
                f"no run of this notebook goes on; other notebooks' do, %skyrl_cancel RUN ends one: {names}"
            )
        raise UnknownRun("no run of this notebook goes on: %skyrl_runs lists its runs")

    def _run_request(self, given: Given, command: str, variables: Variables) -> RunRequest:
        return RunRequest(
            cell=command,
            env=(*(given.env or ()), *variables.env),
            workdir=given.workdir or "",
            out=given.out,
            err=given.err,
            value=variables.value and not given.python,
            raise_error=given.raise_error is not False,
            errexit=bool(given.errexit),
            stdin=variables.stdin,
            kind=PYTHON if given.python else SHELL,
            uv=given.uv or "",
            allow_stdin=can_ask(),
            rules=self._rules(),
            notebook=self.notebook.key,
        )

    def _find_run(self, text: str, config: Given, folder: Path) -> Found:
        """The run that is named so, in a session that lives; without a name the newest that goes on, else the last."""
        with contextlib.suppress(UnknownRun):  # perhaps another notebook's, or of a kernel before this one
            text = resolve_run(text, self.notebook.own_runs) if text else text
        session = self.notebook.runs.get(text)
        if session is not None and session.channel.alive:
            return session, summary(session, text)
        request, _ = self._reached(config, folder)
        if not text:
            with contextlib.suppress(UnknownRun):
                found = last_run(self._services.sessions, request, self.notebook.key, going_on_first=True)
                if found[1].state != ENDED:
                    return found
            text = "-1"  # the last one may be of a session that has ended
        return living(find_log(self._services.sessions, request, text, self.notebook.key))

    def _reached(self, config: Given, folder: Path) -> tuple[SessionRequest, Resolved]:
        """What a cell without options asks for; its backend is connected to."""
        request, resolved = self._request(Given(), config, folder)
        self._running.reach(request.spec.backend)
        return request, resolved

    def restart_ray(self, given: Given, config: Given, folder: Path) -> None:
        """Start Ray again in the session that is asked for. Raises SessionError where that does not work."""
        # The flag says what to do, and not which session: one that was started with --no-ray refuses it.
        session = self._joined(replace(given, ray=None), config, folder, "start Ray again in")
        progress = CellProgress()
        line = ""
        try:
            status = session.restart_ray(progress)
            took = duration_text(round(status.ray_seconds))
            line = f"Ray of session {session.name} is new after {took}: what had used it calls ray.init() again"
            if status.ray == "starting":
                line = f"Ray of session {session.name} is still starting: runs wait for it"
        finally:
            progress.end(line or None)

    def restart(self, given: Given, config: Given, folder: Path) -> None:
        """Restart the Python kernel of the session that is asked for; its variables and widgets are gone."""
        session = self._joined(given, config, folder, "restart the kernel of")
        restart_kernel(session, given.uv or "")
        self._run_cells.forget_kernel(session)
        status = session.ask_status()
        whose = "its variables are gone, also other notebooks'" if status.clients > 1 else "its variables are gone"
        kept = "files are not" if status.ray == "off" else "files and Ray are not"
        note(f"the Python kernel of session {session.name} is new: {whose}, {kept}")

    def push(self, given: Given, config: Given, folder: Path, variables: Variables) -> None:
        """Set variables in the Python kernel of the session that is asked for. Raises VariableError, SessionError."""
        variables.send(self._joined(given, config, folder, "push to"), given.uv or "")

    def pull(self, given: Given, config: Given, folder: Path, variables: Variables) -> dict[str, Any]:
        """Variables of the Python kernel of the session that is asked for. Raises VariableError, SessionError."""
        return variables.bring(self._joined(given, config, folder, "pull from"))

    def ask_kernel(
        self, given: Given, config: Given, folder: Path, question: tuple[str, Mapping[str, Any], float]
    ) -> dict[str, Any] | None:
        """Ask the Python kernel of an open session; ``question`` is type, content and how long to wait, in seconds.

        None where there is no answer. No session is started or looked for, as somebody has pressed a key.
        """
        request, _ = self._request(given, config, folder)
        name = request.place[2]
        session = self._services.sessions.get(request.spec.backend, request.spec.app, name)
        return None if session is None else ask_kernel(session, *question)

    def sessions_table(self, config: Given, folder: Path) -> Table:
        """The owner's running sessions."""
        current = self.notebook.current
        here = self._request(Given(), config, folder)[0].place if current is None else current.place
        return self._running.table(here, is_current=current is not None)

    def use(self, name: str, config: Given, folder: Path) -> None:
        """Make a session that runs the current one. Raises NotFound, SessionError."""
        here, resolved = self._reached(config, folder)
        used = next((place for place in self.notebook.used if place[2] == name), here.place)
        place = self._services.sessions.locate(used[0], used[1], name)
        request = self.notebook.used.get(place) or request_of(resolved).at(place)
        lost = self._services.sessions.why_lost(request)
        session = self._services.sessions.join(request)
        if session is None:
            raise NotFound(f"session {name} has ended just now: %skyrl_sessions shows yours")
        note_another(session, self.notebook, lost)
        before = self.notebook.current
        self._notes_of_backend(session, resolved, is_new=False)
        self._make_current(session, Choice(request), resolved, config)
        if before is None or before.place == place:
            note(f"now in session {session.name}{self._still_running()}")

    def stop(self, names: Sequence[str], config: Given, folder: Path) -> None:
        """Stop the sessions of these names, the current one, or with ``--all`` all of the owner's."""
        current = self.notebook.current
        had = None if current is None else (current.place, self.notebook.containers[current.place])
        stopped = self._running.stop(names, had, lambda: self._request(Given(), config, folder)[0].place)
        if current is not None and current.place in stopped and self._others():
            again = f"a cell without options starts {current.name} again"
            note(f"still running: {', '.join(self._others())} (%skyrl_use NAME goes to one); {again}")

    def logs(self, line: str, config: Given, folder: Path, evaluate: Evaluate | None = None) -> None:
        """Show or save a run's output."""

        def find(text: str) -> RunLog:
            sessions = self._services.sessions
            return find_notebook_log(text, self.notebook, sessions, lambda: self._reached(config, folder)[0])

        with readable():
            show_logs(line, find, self._aside, evaluate)

    def _aside(self, run_id: str) -> contextlib.AbstractContextManager[None]:
        handle = self.notebook.background.get(run_id)
        return contextlib.nullcontext() if handle is None else handle.aside()

    def runs_table(self, asked: RunsAsked, config: Given, folder: Path) -> Table:
        """The runs that are known."""
        request, resolved = self._reached(config, folder)
        known = known_runs(self._services.sessions, request)
        return runs_table(known, asked, self.notebook.key, request.spec.volume, resolved.keep)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _joined(self, given: Given, config: Given, folder: Path, why: str) -> Session:
        request, _ = self._request(given, config, folder)
        lost = self._services.sessions.why_lost(request)
        session = self._services.sessions.join(request)
        if session is None:
            if given.session:
                raise NotFound(f"there is no session {given.session}: %skyrl_sessions shows yours")
            raise NotFound(f"there is no session to {why}: a %%skyrl_python cell starts one")
        note_another(session, self.notebook, lost)
        return session

    def _request(self, given: Given, config: Given, folder: Path) -> tuple[SessionRequest, Resolved]:
        choice, resolved = self._choice(given, config, folder)
        return choice.request, resolved

    def _choice(self, given: Given, config: Given, folder: Path) -> tuple[Choice, Resolved]:
        """Where a line goes, and what it and the settings say together."""
        resolved = resolve(given, config, folder, self._services.auto_backend)
        notebook = self.notebook
        running = frozenset(place for place in notebook.used if self._services.sessions.get(*place))
        used = Used(tuple(reversed(notebook.used.values())), running, notebook.config)
        return choose(request_of(resolved), given, config, resolved.session, used), resolved

    def _session(self, given: Given, config: Given, folder: Path) -> tuple[Session, str]:
        """The session that a cell goes to, made current, and the line that was shown where it was started now."""
        choice, resolved = self._choice(given, config, folder)
        if resolved.refusal:
            raise OptionError(resolved.refusal)
        for text in filter(self.notebook.once, resolved.notes):
            note(text)
        try:
            session, line = self._ensured(choice.request, resolved, given, config)
        except SessionConflict as conflict:
            if choice.otherwise is None or not conflict.why:
                raise
            choice = Choice(choice.otherwise, conflict.why)
            session, line = self._ensured(choice.request, resolved, given, config)
        self._make_current(session, choice, resolved, config)
        return session, line

    def _ensured(self, request: SessionRequest, resolved: Resolved, given: Given, config: Given) -> tuple[Session, str]:
        sessions = self._services.sessions
        for text in filter(self.notebook.once, check_budget(request, sessions.pricing)):
            note(text)
        progress = CellProgress()
        lost = sessions.why_lost(request)
        line = ""
        try:
            session, created = sessions.ensure(request, progress)
            status = session.wait_for_ray(progress)
            if created or progress.begun:  # or another notebook started it meanwhile, or its Ray still came up
                price = sessions.pricing.known(session.spec, request.usd_per_hour)
                earlier = created and request.timeout_s != resolved.timeout_s  # an earlier line's
                line = ready_line(session, status, price, own_timeout=earlier)
        except RunStopped:
            raise
        except KeyboardInterrupt:
            raise RunStopped("stopped before the run began; %skyrl_sessions shows what runs") from None
        finally:
            progress.end(line or None)
        self._notes_of_backend(session, resolved, is_new=created)
        if created:
            self.notebook.once(_runs_of(session))  # it has none
            self._notes_of_new(session, lost or end_before(status, session.spec.backend))
        else:
            note_another(session, self.notebook, lost)
            set_live(session, request, given, self._changes(given, config))
        return session, line

    def _changes(self, given: Given, config: Given) -> Given:
        """The settings that count as if this cell named them: those that were changed in the current session.

        Where a notebook begins, and where a line names the session, settings change nothing about one that runs.
        """
        if self.notebook.current is None or given.session is not None:
            return Given()
        return changes(config, self.notebook.config)

    def _make_current(self, session: Session, choice: Choice, resolved: Resolved, config: Given) -> None:
        """Make a session the current one, and say what is to be known of it here."""
        self._note_other_checkout(session, resolved.spec.repo)
        if self.notebook.once(_runs_of(session)):
            note_runs(session, self.notebook)
        for text in session.take_notices():
            note(text)
        session.on_kernel_message = lambda message: self._outputs.hear(session, message)
        before, request = self.notebook.current, choice.request
        checkout = resolved.checkout if session.spec == resolved.spec else request.checkout
        request = replace(request, spec=session.spec, checkout=checkout, name=session.name, asked=frozenset())
        self.notebook.enter(request, config, session.sandbox.id)
        if (before is None and choice.why) or (before is not None and before.place != request.place):
            why = f"{choice.why}: " if choice.why else ""
            note(f"{why}now in session {session.name}{self._still_running()}")

    def _others(self) -> Sequence[str]:
        """The names of this notebook's other sessions, as far as they are known to run; asks nobody."""
        sessions, current = self._services.sessions, self.notebook.current
        others = (place for place, request in self.notebook.used.items() if request is not current)
        return [place[2] for place in others if sessions.get(*place)]

    def _still_running(self) -> str:
        """The same as the end of a line; empty without any."""
        return f"; still running: {', '.join(self._others())} (%skyrl_stop NAME ends one)" if self._others() else ""

    def _notes_of_backend(self, session: Session, resolved: Resolved, *, is_new: bool) -> None:
        spec = session.spec
        if self.notebook.once(f"volume of {session.sandbox.id}"):
            note_volume(session)
        if spec.backend == "local" and self.notebook.once("local"):
            no_account = self._services.auto_backend() == "local"
            reason = "no Modal account is set up (`modal setup`)" if no_account else "as asked"
            note(f"local backend, {reason}: the container runs on this machine")
        checkout = resolved.checkout
        project = None if checkout is None else checkout.root / checkout.project
        for text in filter(self.notebook.once, local_notes(spec, resolved.said, project, is_new=is_new)):
            note(text)

    def _note_other_checkout(self, session: Session, repo: str) -> None:
        """Say that the notebook's own checkout is not what its cells run with."""
        there = session.spec.repo
        if there != repo:
            here = f"edits in {checkout_text(repo, there)} are not sent there: choose another --session NAME for them"
            has = f"the checkout {checkout_text(there, repo)}" if there else "no checkout"
            text = f"session {session.name} has {has}" + (f", and {here}" if repo else "")
            if self.notebook.once(text):
                note(text)

    def _notes_of_new(self, session: Session, lost: str) -> None:
        if lost:
            note(f"an earlier session of this name had ended: {lost}")
        if session.sync is not None:
            note_large(session.sync.reader)


def _runs_of(session: Session) -> str:
    """What stands for the lines about the runs of a session, which are shown once."""
    return f"runs of {session.sandbox.id}"
