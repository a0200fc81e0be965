"""A run in the background as the user holds it: ``run = %skyrl_modal --bg …``, or what a ``--bg`` cell returns."""

from __future__ import annotations

import asyncio
import contextlib
import html
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

from skyrl_magic.core import protocol
from skyrl_magic.core.display_merge import CLEAR_OUTPUT
from skyrl_magic.core.errors import CellError, RunLeft, SessionError, SkyRLMagicError
from skyrl_magic.core.protocol.durations import duration_text
from skyrl_magic.core.spec import RunRequest
from skyrl_magic.service.background import BackgroundRun
from skyrl_magic.service.interrupts import LOOK_S
from skyrl_magic.service.newest_lines import NewestLines
from skyrl_magic.service.run_names import ways_to
from skyrl_magic.service.runs import RunResult, RunService
from skyrl_magic.service.session import Session
from skyrl_magic.ui.cell_outputs import plain_text
from skyrl_magic.ui.display import Place, note
from skyrl_magic.ui.outcome import captured, error_of
from skyrl_magic.ui.tables import NO_MATH

#: Lines in the display, and how often it is brought up to date, in seconds: each time is a message to the front end.
SHOWN_LINES = 6
UPDATE_S = 1.0
TAIL_LINES = 10


class BackgroundSink:
    """``service.runs.Sink`` that keeps the newest lines; nothing is shown by itself."""

    flush_due_s = None
    settled = False
    """Nobody has seen it."""

    def __init__(self) -> None:
        self.lines = NewestLines()
        self.note_text = ""

    def feed(self, event: protocol.Message) -> None:
        """Keep an event's lines."""
        if isinstance(event, (protocol.Output, protocol.Gap)):
            self.lines.feed(event)

    def tick(self) -> None:
        """Nothing is ever due."""

    def flush(self) -> None:
        """Nothing waits."""

    def note(self, text: str) -> None:
        """Keep the last line about the run."""
        self.note_text = text

    def message(self, message: protocol.KernelMessage) -> None:
        """Keep the text of a display; what the cell clears is forgotten."""
        if message.msg_type == CLEAR_OUTPUT:
            self.lines.clear(wait=bool(message.content.get("wait")))
            return
        text = plain_text(message)
        if text.strip():
            self.lines.add(text.rstrip("\n"))

    def ask(self, prompt: str, *, password: bool) -> str:
        """A run that nobody sits in front of gets no answer."""
        del prompt, password
        raise KeyboardInterrupt


class RunHandle:
    """A run that goes on while the notebook does something else.

    Displayed, it shows its state, its time and its newest lines, and keeps them up to date.

    Args:
        run_id: the run.
        session: where it runs.
        request: what was asked for.
        runs: starts and follows runs.
        assign: sets variables of the notebook: ``--out`` and ``--err``, at the run's end.

    Example:
        ``run = %skyrl_modal --bg --out log bash train.sh``, then ``run.tail()``, ``run.wait()``, ``run.cancel()``.
    """

    def __init__(
        self,
        run_id: str,
        session: Session,
        request: RunRequest,
        runs: RunService,
        assign: Callable[[dict[str, Any]], None],
    ) -> None:
        self.id = run_id
        self.session_name = session.name
        self.sink = BackgroundSink()
        self.background = BackgroundRun(runs, session, request, self.sink, self._ended)
        self._session, self._request, self._assign = session, request, assign
        self._lock = threading.Lock()
        self._waiting: list[Callable[[], object]] = []
        self._places: list[Place] = []

    @property
    def done(self) -> bool:
        """Whether the run is over."""
        return self.background.done

    @property
    def exit_code(self) -> int | None:
        """Its exit code; None while it goes on, and where nobody knows."""
        result = self.background.result
        return None if result is None else result.exit_code

    @property
    def state(self) -> str:
        """``running``, ``ended``, ``failed: exit code 3``, ``stopped by SIGINT``, ``stopped: WHY`` or ``lost``."""
        background = self.background
        if not background.done:
            return "running"
        if background.result is None:
            return "lost"
        if background.result.stopped:
            return f"stopped by {background.result.stopped}"
        if background.result.reason:
            return f"stopped: {background.result.reason}"
        error = self._error()
        if isinstance(error, CellError):
            return f"failed: {type(error).__name__}"
        return "ended" if error is None else f"failed: exit code {background.result.exit_code}"

    def wait(self, timeout_s: float | None = None) -> RunHandle:
        """Wait for the end; Stop ends the waiting and not the run.

        Raises:
            TimeoutError: the run goes on after ``timeout_s`` seconds.
            RunFailed, CellError, RunStopped, SessionLost: how it ended, where that was not well.
        """
        try:
            over = self.background.wait(timeout_s, self._tell)
        except KeyboardInterrupt:
            raise RunLeft(f"run {self.id} goes on: {ways_to(self.id)}") from None
        if not over:
            raise TimeoutError(f"run {self.id} goes on after {duration_text(timeout_s or 0.0)}")
        error = self._error()
        if error is not None:
            raise error
        return self

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """In the block a cell reads the run instead: a connection carries one watch of each run."""
        if self.done:
            yield
            return
        self.background.leave()
        try:
            with contextlib.suppress(SessionError):
                self._session.ask_status()  # what was still on its way comes before this answer
            yield
        finally:
            self.follow_again()

    def follow_again(self) -> None:
        """Follow the run again, from its start, unless it is over."""
        self.background.leave()  # where a cell that was to follow it was cut short before
        if self.done:
            return
        self.sink.lines = NewestLines()
        try:
            self.background.attach(self.id)
        except SkyRLMagicError as error:
            self.background.finish(None, error)

    def _tell(self) -> None:
        """Show what the session has to say."""
        for text in self._session.take_notices():
            note(text)

    def __await__(self) -> Generator[Any, None, RunHandle]:
        """Wait as :meth:`wait` does, while other tasks go on."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not over.done():  # else the waiting was cancelled
                over.set_result(None)

        def ended() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(wake)

        with self._lock:
            if not self.done:
                self._waiting.append(ended)
            else:
                over.set_result(None)
        while not over.done():
            # ipykernel's Stop cancels this, in a signal handler, and the loop has to wake up to see it.
            yield from asyncio.wait([over], timeout=LOOK_S).__await__()
        return self.wait()

    def tail(self, lines: int = TAIL_LINES) -> str:
        """Its newest lines, at most 200; ``%skyrl_logs`` has all of them."""
        return "\n".join(self.sink.lines.last(lines))

    def cancel(self) -> None:
        """Stop it: SIGINT, then SIGTERM and SIGKILL after a grace period each. Called again, the next one at once."""
        self.background.cancel()

    def __repr__(self) -> str:
        """State, time and newest lines."""
        return "\n".join([self._title(), *(f"  {line}" for line in self.sink.lines.last(SHOWN_LINES))])

    def _ipython_display_(self) -> None:
        place = Place(self._data())
        with self._lock:
            first = not self._places
            self._places.append(place)
        if first and not self.done:
            threading.Thread(target=self._keep_up_to_date, name=f"skyrl-show-{self.id}", daemon=True).start()

    def _keep_up_to_date(self) -> None:
        over = False
        while not over:
            over = self.background.wait(UPDATE_S)
            data = self._data()
            with self._lock:
                places = [*self._places]
            for place in places:
                place.update(data)

    def _data(self) -> dict[str, str]:
        lines = "\n".join(self.sink.lines.last(SHOWN_LINES))
        body = f"<pre style='margin:0 0 0 1em'>{html.escape(lines)}</pre>" if lines else ""
        return {
            "text/plain": repr(self),
            "text/html": f"<div class='{NO_MATH}'>{html.escape(self._title())}</div>{body}",
        }

    def _title(self) -> str:
        # In a saved notebook this is what was so when it was shown.
        as_of = time.strftime("as of %Y-%m-%d %H:%M:%S")
        more = "" if self.done else f" · {as_of} · {ways_to(self.id)}"
        took = duration_text(self.background.duration_s)
        return f"run {self.id} in session {self.session_name}: {self.state} · {took}{more}"

    def _error(self) -> SkyRLMagicError | None:
        result = self.background.result
        return self.background.error if result is None else error_of(result)

    def _ended(self) -> None:
        result: RunResult | None = self.background.result
        if result is not None:
            self._assign(captured(self._request, result))
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for tell in waiting:
            tell()
