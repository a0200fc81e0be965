"""Stop while a cell runs: where it raises, where it is counted, and that the handler is given back."""

from __future__ import annotations

import signal
import threading

import pytest

from skyrl_magic.service.interrupts import Interrupts


def test_until_it_is_diverted_stop_raises() -> None:
    with Interrupts():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_diverted_it_wakes_and_is_counted() -> None:
    wakes: list[int] = []
    with Interrupts() as interrupts:
        interrupts.divert(lambda: wakes.append(1))
        assert interrupts.take() == 0
        signal.raise_signal(signal.SIGINT)
        interrupts.press()
        assert len(wakes) == 2
        assert interrupts.take() == 2
        assert interrupts.take() == 0


def test_what_waits_for_the_user_is_ended() -> None:
    with Interrupts() as interrupts:
        interrupts.divert(lambda: None)
        with pytest.raises(KeyboardInterrupt), interrupts.raising():
            signal.raise_signal(signal.SIGINT)
        assert interrupts.take() == 0, "it is the asker's"
        signal.raise_signal(signal.SIGINT)
        assert interrupts.take() == 1


def test_after_a_question_it_is_counted_again_also_when_that_failed() -> None:
    with Interrupts() as interrupts:
        interrupts.divert(lambda: None)
        with pytest.raises(ValueError, match="no answer"), interrupts.raising():
            raise ValueError("no answer")
        interrupts.press()
        assert interrupts.take() == 1


def test_stop_ends_a_pause_and_is_still_counted() -> None:
    woken: list[int] = []
    with Interrupts() as interrupts:
        interrupts.divert(lambda: woken.append(1))
        assert not interrupts.pause(0)
        presser = threading.Timer(0.01, interrupts.press)
        presser.start()
        assert interrupts.pause(60)
        presser.join()
        assert interrupts.pause(60), "it is not taken yet"
        assert interrupts.take() == 1
        assert not woken, "the pause had it"
        interrupts.press()
        assert woken


def failing_cell() -> None:
    with Interrupts() as interrupts:
        interrupts.divert(lambda: None)
        raise ValueError("in the cell")


def test_the_handler_from_before_is_given_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="in the cell"):
        failing_cell()
    assert signal.getsignal(signal.SIGINT) is before


def test_one_inside_another_gives_back_the_outer_one() -> None:
    with Interrupts() as outer:
        outer.divert(lambda: None)
        with Interrupts() as inner:
            inner.divert(lambda: None)
            signal.raise_signal(signal.SIGINT)
            assert (inner.take(), outer.take()) == (1, 0)
        signal.raise_signal(signal.SIGINT)
        assert (inner.take(), outer.take()) == (0, 1)


def test_beside_the_main_thread_only_a_press_counts() -> None:
    before = signal.getsignal(signal.SIGINT)
    found: list[object] = []

    def cell() -> None:
        with Interrupts() as interrupts:
            found.append(signal.getsignal(signal.SIGINT))
            interrupts.divert(lambda: None)
            interrupts.press()
            found.append(interrupts.take())

    thread = threading.Thread(target=cell)
    thread.start()
    thread.join()
    assert found == [before, 1]
    assert signal.getsignal(signal.SIGINT) is before
