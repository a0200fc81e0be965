from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from skyrl_magic.core.display_budget import (
    BURST_BYTES,
    BURST_MESSAGES,
    BYTES_PER_S,
    INTERVAL_S,
    MESSAGES_PER_S,
    DisplayBudget,
)


def test_the_first_message_goes_at_once() -> None:
    budget = DisplayBudget()
    assert budget.next_s(50.0) <= 50.0
    assert budget.messages(50.0) == BURST_MESSAGES
    assert budget.size_bytes(50.0) == BURST_BYTES


def test_writes_keep_their_distance() -> None:
    budget = DisplayBudget()
    budget.spend(50.0, 1, 10)
    assert budget.next_s(50.05) == 50.0 + INTERVAL_S
    assert budget.next_s(51.0) <= 51.0


def test_an_overdrawn_budget_recovers() -> None:
    budget = DisplayBudget()
    budget.spend(50.0, 1, BURST_BYTES + 200_000)
    assert budget.size_bytes(50.0) < 0
    assert budget.next_s(50.0) > 50.0 + 200_000 / BYTES_PER_S


def test_a_clock_that_goes_back_gives_nothing() -> None:
    budget = DisplayBudget()
    budget.spend(50.0, BURST_MESSAGES, 0)
    assert budget.messages(10.0) == 0
    assert budget.messages(50.2) == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 50_000)), min_size=1))
def test_rates_hold_for_a_caller_who_takes_all(steps: list[tuple[float, int]]) -> None:
    budget, now_s, messages, size_bytes = DisplayBudget(), 0.0, 0, 0
    for pause_s, wanted_bytes in steps:
        now_s += pause_s
        if budget.next_s(now_s) <= now_s:
            sent = budget.messages(now_s)
            assert sent >= 1, "the time had come"
            sent_bytes = min(wanted_bytes, budget.size_bytes(now_s))
            budget.spend(now_s, sent, sent_bytes)
            messages, size_bytes = messages + sent, size_bytes + sent_bytes
    assert messages <= BURST_MESSAGES + now_s * MESSAGES_PER_S + 0.01
    assert size_bytes <= BURST_BYTES + now_s * BYTES_PER_S + 1
