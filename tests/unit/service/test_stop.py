"""The signals of a stop, and when one is given up."""

from __future__ import annotations

import queue
import signal

import pytest

from skyrl_magic.core.errors import RunStopped
from skyrl_magic.service.stop import ESCALATION, PYTHON_ESCALATION, Stop
from skyrl_magic.service.watch import Signalled
from tests.unit.service.processes import DEADLINE_S


class Stopping:
    """A stop whose signals are kept; time passes by :attr:`now_s`."""

    def __init__(self, escalation: tuple[signal.Signals, ...]) -> None:
        self.now_s = 0.0
        self.notes: list[str] = []
        self._sent: queue.SimpleQueue[tuple[int, signal.Signals]] = queue.SimpleQueue()
        self.stop = Stop(self._keep, "k3f9aa", self.notes.append, lambda: self.now_s, escalation, 5.0)

    def _keep(self, attempt: int, number: signal.Signals) -> None:
        self._sent.put((attempt, number))

    def sent(self) -> signal.Signals:
        """The next signal, which has reached the run."""
        attempt, number = self._sent.get(timeout=DEADLINE_S)
        self.stop.answered(Signalled(attempt, delivered=True))
        return number


@pytest.mark.parametrize("escalation", [ESCALATION, PYTHON_ESCALATION])
def test_presses_in_a_row_send_each_signal_once_and_give_nothing_up(escalation: tuple[signal.Signals, ...]) -> None:
    it = Stopping(escalation)
    for _ in range(5):
        it.stop.press()
        it.now_s += 0.05
    assert {it._sent.get(timeout=DEADLINE_S)[1] for _ in escalation} == set(escalation)
    it.now_s += 5.0
    with pytest.raises(RunStopped, match="left run k3f9aa, which no signal reaches"):
        it.stop.press()


def test_a_python_cell_is_ended_by_a_press_and_never_by_time() -> None:
    it = Stopping(PYTHON_ESCALATION)
    it.stop.press()
    assert it.sent() == signal.SIGINT
    it.now_s += 4.9
    it.stop.tick()
    assert it.notes == []
    it.now_s += 0.1
    it.stop.tick()
    said = ["SIGINT did not end the cell: ■ again ends its Python kernel, and its variables are gone then"]
    assert (it.notes, it.stop.due_s) == (said, None)
    it.stop.press()
    assert it.sent() == signal.SIGKILL
