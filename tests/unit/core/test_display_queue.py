from __future__ import annotations

from skyrl_magic.core.display_budget import BURST_MESSAGES, DisplayBudget
from skyrl_magic.core.display_queue import DisplayQueue, Live, ShowText, StreamText, UpdateText


def test_first_in_first_out() -> None:
    queue = DisplayQueue()
    assert not queue.waiting
    queue.write("stdout", "a", 0.0)
    queue.write("stdout", "b\n", 0.0)
    live = Live("id", "stderr", text="bar")
    queue.open(live, 0.0)
    places = [queue.last]
    queue.write("stdout", "c\n", 0.0)
    assert [*places, queue.last] == [live, "stdout"]
    assert queue.send(0.0, DisplayBudget()) == [
        StreamText("stdout", "ab\n"),
        ShowText("id", "bar", "stderr"),
        StreamText("stdout", "c\n"),
    ]
    assert not queue.waiting


def test_a_display_that_was_never_shown_becomes_text_in_its_place() -> None:
    queue = DisplayQueue()
    queue.open(live := Live("id", "stderr", text="bar"), 0.0)
    queue.write("stdout", "next\n", 0.0)
    queue.close(live)
    assert queue.send(0.0, DisplayBudget()) == [StreamText("stderr", "bar\n"), StreamText("stdout", "next\n")]


def test_an_empty_display_that_was_never_shown_leaves_no_trace() -> None:
    queue = DisplayQueue()
    queue.write("stdout", "before\n", 0.0)
    queue.open(live := Live("id", "stderr"), 0.0)
    queue.close(live)
    assert queue.last == "stdout"
    assert queue.send(0.0, DisplayBudget()) == [StreamText("stdout", "before\n")]


def test_only_changes_are_sent_and_only_the_last() -> None:
    queue, budget = DisplayQueue(), DisplayBudget()
    queue.open(live := Live("id", "stderr", text="0"), 0.0)
    queue.send(0.0, budget)
    queue.change(live, "0", 1.0)
    assert not queue.waiting
    queue.change(live, "1", 1.0)
    queue.change(live, "2", 1.1)
    assert queue.send(1.2, budget) == [UpdateText("id", "2", "stderr")]


def test_many_turns_are_joined_but_not_across_a_display() -> None:
    queue = DisplayQueue()
    for number in range(10):
        queue.write(("stdout", "stderr")[number % 2], f"{number}\n", 0.0)
    queue.open(Live("id", "", text="bar"), 0.0)
    queue.write("stdout", "after\n", 0.0)
    assert queue.send(0.0, DisplayBudget()) == [
        StreamText("stdout", "0\n2\n4\n6\n8\n"),
        StreamText("stderr", "1\n3\n5\n7\n9\n"),
        ShowText("id", "bar", ""),
        StreamText("stdout", "after\n"),
    ]


def test_with_one_message_left_those_who_wait_take_turns() -> None:
    queue, budget = DisplayQueue(), DisplayBudget()
    queue.open(live := Live("id", "stderr", text="bar"), 0.0)
    queue.send(0.0, budget)
    budget.spend(0.0, BURST_MESSAGES - 1, 0)
    sent = []
    for step in range(1, 9):
        now_s = step * 0.2
        queue.write("stdout", f"{step}\n", now_s)
        queue.change(live, f"bar {step}", now_s)
        sent += [type(action) for action in queue.send(now_s, budget)]
    assert sent in ([StreamText, UpdateText] * 4, [UpdateText, StreamText] * 4)


def test_lines_are_not_cut() -> None:
    queue, budget = DisplayQueue(), DisplayBudget()
    for _ in range(3):
        queue.write("stdout", "x" * 79_999 + "\n", 0.0)
    (first,) = queue.send(0.0, budget)
    assert len(first.text) == 80_000
    assert queue.waiting
    texts = [action.text for action in queue.send(0.1, budget, final=True)]
    assert "".join(texts) == ("x" * 79_999 + "\n") * 2
