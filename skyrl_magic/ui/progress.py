"""How far something is, in one line of the cell."""

from __future__ import annotations

from skyrl_magic.ui.display import PhaseLine, note


class CellProgress:
    """``service.sessions.Progress`` as one line that is updated in place, made when the first phase begins."""

    def __init__(self) -> None:
        self._line: PhaseLine | None = None

    @property
    def begun(self) -> bool:
        """Whether there is a line."""
        return self._line is not None

    def begin(self, phase: str, hint: str = "") -> None:
        """A phase begins."""
        if self._line is None:
            self._line = PhaseLine()
        self._line.begin(phase, hint)

    def tick(self) -> None:
        """Show the time that the phase has taken so far."""
        if self._line is not None:
            self._line.tick()

    def note(self, text: str) -> None:
        """A line of its own."""
        note(text)

    def end(self, text: str | None) -> None:
        """The last phase is over: ``text`` and the times of the phases stay."""
        if self._line is not None:
            self._line.done(text)
