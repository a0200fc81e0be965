"""What a cell does with runs: it starts them and waits, or not; it goes back to one, or ends it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

from skyrl_magic.core import protocol
from skyrl_magic.core.cell_counts import CellCounts
from skyrl_magic.core.errors import RunLeft, SessionLost, SkyRLMagicError
from skyrl_magic.core.spec import RunRequest, RunRules
from skyrl_magic.service.connection import Refused
from skyrl_magic.service.find_run import Found
from skyrl_magic.service.interrupts import Interrupts, wait_until_set
from skyrl_magic.service.logs import ENDED
from skyrl_magic.service.python_cell import PythonEnd
from skyrl_magic.service.results import lost_text
from skyrl_magic.service.runs import new_run_id
from skyrl_magic.service.session import Session
from skyrl_magic.service.sessions import STOP_TIMEOUT_S
from skyrl_magic.service.stop import end_for_good
from skyrl_magic.service.watch import Watch, readable
from skyrl_magic.ui.background import RunHandle
from skyrl_magic.ui.cell_sink import CellSink
from skyrl_magic.ui.display import note
from skyrl_magic.ui.front_end import KernelEnd, execution_count
from skyrl_magic.ui.local_notes import no_gpu_text
from skyrl_magic.ui.notebook import Notebook, Services
from skyrl_magic.ui.outcome import Outcome, bring, lost_with_run, outcome_of, stopped_late
from skyrl_magic.ui.remote_outputs import RemoteOutputs
from skyrl_magic.ui.session_notes import shown_by, shown_whole
from skyrl_magic.ui.variables import Variables

#: A session that turns out to have ended is started again once before a cell gives up.
_START_TRIES = 2
#: How long a run's end may take to be known here, in seconds.
_MARGIN_S = 5.0
T = TypeVar("T")
GetSession = Callable[[], Session]


class RunCells:
    """The runs of one notebook.

    Args:
        services: start and follow runs.
        notebook: keeps what lies between cells.
        outputs: where Python cells show things.
    """

    def __init__(self, services: Services, notebook: Notebook, outputs: RemoteOutputs) -> None:
        self._runs, self._notebook, self._outputs = services.runs, notebook, outputs
        self._kernel_end = KernelEnd()
        self._counts = CellCounts()

    def run(self, request: RunRequest, variables: Variables, get_session: GetSession) -> Outcome:
        """Run a cell's command and show its output; the outcome has its error, which is not raised here."""
        run_id = new_run_id()
        with Interrupts(self._kernel_end.wait) as interrupts:
            sink = CellSink(run_id, self._outputs, interrupts)

            def begin(session: Session) -> Watch:
                sink.joined(session, request, keeps_value=variables.value)
                variables.send(session, request.uv)
                self._note_before(session, request)
                return self._runs.start(session, request, run_id, sink, interrupts)

            try:
                session, watch = self._begun(run_id, get_session, begin)
            except SkyRLMagicError as error:
                sink.close(None)
                return Outcome(error=error)
            except BaseException:
                sink.close(None)
                raise
            outcome = self._follow(session, request, watch, sink, interrupts)
            if outcome.error is None and not (outcome.result and outcome.result.exit_code):
                with interrupts.raising():
                    bring(variables, session, outcome, sink)
            return outcome

    def background(
        self,
        request: RunRequest,
        variables: Variables,
        get_session: GetSession,
        assign: Callable[[dict[str, object]], None],
    ) -> RunHandle:
        """Start a run that no cell waits for. Raises SkyRLMagicError where it does not start."""
        run_id = new_run_id()

        def begin(session: Session) -> RunHandle:
            variables.send(session, request.uv)
            self._note_before(session, request)
            handle = RunHandle(run_id, session, request, self._runs, assign)
            handle.background.start(run_id)
            return handle

        _, handle = self._begun(run_id, get_session, begin)
        self._notebook.background[run_id] = handle
        return handle

    def attach(self, found: Found, rules: RunRules, *, from_start: bool) -> Outcome:
        """Go on with a run in this cell, where this notebook's output of it stopped."""
        session, run = found
        run_id, handle = run.run_id, self._notebook.background.get(run.run_id)
        request = RunRequest(cell="", kind=run.kind) if handle is None else handle.background.request
        start = (0, 0, 0) if from_start or request.out or request.err else self._seen(run)
        request = dataclasses.replace(request, start=start, rules=rules, notebook=self._notebook.key, attached=True)
        if run_id not in self._notebook.runs:
            self._notebook.attached.add(run_id)
        self._notebook.runs[run_id] = session
        if run.state == ENDED and any(start) and shown_whole(run, start):
            # The kernel has sent all of it, and cannot know which of that a page has: one that was closed lacks it.
            start = (0, 0, 0)
            note(f"run {run_id} is over and was shown in this notebook before: here it is from its start")
        elif any(start):
            rest = f"%skyrl_attach {run_id} --from start shows all of it"
            note(f"run {run_id} from where this notebook had shown it; {rest}")
        request = dataclasses.replace(request, start=start)
        followed = handle if handle is not None and not handle.done else None
        also = None if handle is None else handle.sink
        outcome: Outcome | None = None
        try:
            with Interrupts(self._kernel_end.wait) as interrupts:
                begin = dict(zip(protocol.JOURNAL_STREAMS, start, strict=True))
                sink = CellSink(run_id, self._outputs, interrupts, begin, also)
                sink.joined(session, request, keeps_value=False)
                if followed is not None:
                    followed.background.leave()
                watch = self._runs.attach(session, request, run_id, interrupts)
                outcome = self._follow(session, request, watch, sink, interrupts)
        finally:
            if followed is not None:
                _hand_back(followed, outcome)
        if outcome.error is None:
            note(f"run {run_id} has ended")
        return outcome

    def cancel(self, found: Sequence[Found], grace_s: float) -> None:
        """End runs for good, and say of each whether it has ended. Raises SessionError."""
        going_on = [(session, run) for session, run in found if run.state != ENDED]
        for session, run in going_on:
            end_for_good(session, run.run_id, grace_s)
        for session, run in going_on:
            if self._await_end(session, run, grace_s):
                note(f"run {run.run_id} is stopped; %skyrl_logs {run.run_id} shows its output")
            elif run.kind == protocol.PYTHON:
                text = f"run {run.run_id} does not hear SIGINT: %skyrl_cancel {run.run_id} again ends its Python kernel"
                note(f"{text}, and its variables are gone then")
            else:
                note(f"run {run.run_id} does not end; %skyrl_stop {session.name} ends its session")
        for _, run in found:
            if run.state == ENDED:
                note(f"run {run.run_id} had ended before")

    def _await_end(self, session: Session, run: protocol.RunSummary, grace_s: float) -> bool:
        # A Python run hears one signal, another one two more with a grace period before each.
        patience_s = grace_s * (1 if run.kind == protocol.PYTHON else 2) + _MARGIN_S
        handle = self._notebook.background.get(run.run_id)
        if handle is not None and not handle.done:
            return handle.background.wait(patience_s)
        return self._runs.await_end(session, run.run_id, patience_s)

    def forget_kernel(self, session: Session) -> None:
        """The session's Python kernel is a new one."""
        self._counts.forget(session.sandbox.id)
        self._outputs.comms.forget(session)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _note_before(self, session: Session, request: RunRequest) -> None:
        """Say which results of a training would end with its container, and that there is no GPU to look at."""
        current = self._notebook.current
        lost = lost_text(session, request, keep_results=current is None or current.keep.results)
        for text in filter(None, (lost, no_gpu_text(session.spec, request.cell))):
            note(text)

    def _begun(self, run_id: str, get_session: GetSession, begin: Callable[[Session], T]) -> tuple[Session, T]:
        """A run's session, and what ``begin`` made of it. One that ended since the last cell is started again."""
        for attempt in range(_START_TRIES):
            try:
                session = get_session()
                begun = _begin_unless_ending(session, begin)
            except SessionLost:
                if attempt == _START_TRIES - 1:
                    raise
            else:
                break
        self._notebook.runs[run_id] = session
        return session, begun

    def _follow(
        self, session: Session, request: RunRequest, watch: Watch, sink: CellSink, interrupts: Interrupts
    ) -> Outcome:
        run_id = watch.run_id
        try:
            with readable():
                result = self._runs.follow(session, request, watch, sink, interrupts)
        except SkyRLMagicError as error:
            sink.close(None)
            return Outcome(error=lost_with_run(error, run_id))
        except BaseException:
            sink.close(None)
            raise
        finally:
            if watch.seen is not None:
                self._notebook.seen[run_id] = (watch.seen.stdout, watch.seen.stderr, watch.seen.outputs)
        if result.python is not None:
            self._number(session, request, result.python)
        outcome = outcome_of(request, result, sink)
        outcome.result = result
        if outcome.error is None and interrupts.take():  # while the last output was shown
            outcome.error = stopped_late(result)
        return outcome

    def _number(self, session: Session, request: RunRequest, end: PythonEnd) -> None:
        """A traceback has the numbers that this notebook shows beside its cells."""
        here = execution_count()
        if end.count is not None and here is not None and not request.attached:
            self._counts.learn(session.sandbox.id, end.count, here)
        if end.error is not None:
            end.error = self._counts.renumbered(session.sandbox.id, end.error)

    def _seen(self, run: protocol.RunSummary) -> tuple[int, int, int]:
        """How far this notebook has shown a run: as this kernel knows it, else as the one before it told the agent."""
        known = self._notebook.seen.get(run.run_id)
        if known is not None:
            return known
        return shown_by(run, self._notebook.key)


def _hand_back(handle: RunHandle, outcome: Outcome | None) -> None:
    """Let a run's handle know its end, or follow it again: also where the cell was cut short (no outcome)."""
    if outcome is None or isinstance(outcome.error, RunLeft):
        handle.follow_again()
    else:
        handle.background.finish(outcome.result, outcome.error)


def _begin_unless_ending(session: Session, begin: Callable[[Session], T]) -> T:
    """What ``begin`` returns. Raises SessionLost where the session was about to end, when it has."""
    try:
        return begin(session)
    except Refused as refused:
        if refused.code != protocol.STOPPING:
            raise
        note(f"session {session.name} is ending: the cell waits for its last commit, and goes to a new one")
        wait_until_set(session.channel.gone, STOP_TIMEOUT_S)
        raise SessionLost(str(refused)) from None
