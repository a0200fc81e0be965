from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyrl_magic.core.display_budget import (
    BURST_MESSAGES,
    FINAL_MESSAGES,
    RICH_BURST_BYTES,
    RICH_BURST_MESSAGES,
    DisplayBudget,
)
from skyrl_magic.core.display_queue import (
    MAX_WAITING_DISPLAYS,
    Action,
    DisplayQueue,
    Live,
    ShowMessage,
    ShowText,
    StreamText,
    UpdateText,
)
from skyrl_magic.core.protocol import KernelMessage


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
        StreamText("stdout", "0\n2\n4\n"),
        StreamText("stderr", "1\n3\n5\n7\n9\n"),
        StreamText("stdout", "6\n8\n"),
        ShowText("id", "bar", ""),
        StreamText("stdout", "after\n"),
    ]


def test_more_turns_than_messages_keep_their_order_but_for_neighbours() -> None:
    queue = DisplayQueue()
    for number in range(600):
        queue.write(("stdout", "stderr")[number % 2], f"{number}\n", 0.0)
    actions = queue.send(0.0, DisplayBudget(), final=True)
    assert len(actions) <= FINAL_MESSAGES
    shown = [int(line) for action in actions for line in action.text.split()]
    assert sorted(shown) == list(range(600))
    assert all(abs(number - at) <= 600 / len(actions) * 2 for at, number in enumerate(shown))


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


# --- messages of Python cells -----------------------------------------------------------------------------------------


def display(text: str, display_id: str = "", kind: str = "display_data") -> KernelMessage:
    transient = {"transient": {"display_id": display_id}} if display_id else {}
    return KernelMessage("k3f9", msg_type=kind, content={"data": {"text/plain": text}, **transient})


def update(text: str, display_id: str) -> KernelMessage:
    return display(text, display_id, "update_display_data")


def comm(kind: str, comm_id: str, **state: object) -> KernelMessage:
    data = {"method": "update", "state": state} if kind == "comm_msg" else {"state": state}
    return KernelMessage("k3f9", msg_type=kind, content={"comm_id": comm_id, "data": data})


def state(comm_id: str, **values: object) -> KernelMessage:
    return comm("comm_msg", comm_id, **values)


CLEAR = KernelMessage("k3f9", msg_type="clear_output", content={"wait": False})


def sent(queue: DisplayQueue) -> list[str | KernelMessage]:
    """All that waits, as at the end of a run: texts and messages."""
    actions: list[Action] = queue.send(0.0, DisplayBudget(), final=True)
    assert not queue.waiting
    return [action.message if isinstance(action, ShowMessage) else action.text for action in actions]


def shown(*messages: KernelMessage) -> list[str | KernelMessage]:
    queue = DisplayQueue()
    for message in messages:
        assert queue.show(message, 0.0) == 0
    return sent(queue)


def test_messages_and_text_keep_their_order() -> None:
    queue = DisplayQueue()
    queue.write("stdout", "one\n", 0.0)
    queue.show(display("a"), 0.0)
    assert queue.last is None
    queue.write("stdout", "two\n", 0.0)
    queue.show(display("b"), 0.0)
    assert sent(queue) == ["one\n", display("a"), "two\n", display("b")]


def test_texts_are_not_joined_across_a_message() -> None:
    queue = DisplayQueue()
    for number in range(BURST_MESSAGES + 3):
        queue.write("stdout", f"{number}\n", 0.0)
        queue.show(display(str(number)), 0.0)
    expected: list[str | KernelMessage] = []
    for number in range(BURST_MESSAGES + 3):
        expected += [f"{number}\n", display(str(number))]
    assert sent(queue) == expected


def test_what_a_display_shows_last_is_all_that_is_sent_of_it() -> None:
    assert shown(display("0", "d"), *[update(str(number), "d") for number in range(1, 100)]) == [display("99", "d")]
    assert shown(update("0", "d"), display("x"), update("1", "d")) == [update("1", "d"), display("x")]


def test_updates_do_not_go_to_the_display_of_another_id() -> None:
    assert shown(display("0", "d"), display("0", "e"), update("1", "e"), update("1", "d")) == [
        display("1", "d"),
        display("1", "e"),
    ]


def test_a_display_that_was_sent_is_updated_by_a_message_of_its_own() -> None:
    queue = DisplayQueue()
    queue.show(display("0", "d"), 0.0)
    assert sent(queue) == [display("0", "d")]
    queue.show(update("1", "d"), 0.0)
    queue.show(update("2", "d"), 0.0)
    assert sent(queue) == [update("2", "d")]


def test_a_widgets_states_are_joined_but_not_across_another_message_of_it() -> None:
    custom = KernelMessage("k3f9", msg_type="comm_msg", content={"comm_id": "w", "data": {"method": "custom"}})
    assert shown(state("w", a=1), state("w", b=2), custom, state("w", a=3), state("w", a=4)) == [
        state("w", a=1, b=2),
        custom,
        state("w", a=4),
    ]


def test_a_state_is_not_moved_before_the_widget_that_it_names() -> None:
    messages = [
        state("box", width=1),
        comm("comm_open", "new"),
        state("box", children=["IPY_MODEL_new"]),
    ]
    assert shown(*messages) == messages


def test_a_state_is_not_moved_behind_the_end_of_its_widget() -> None:
    messages = [state("w", a=1), comm("comm_close", "w"), comm("comm_open", "w"), state("w", a=2)]
    assert shown(*messages) == messages


def test_what_an_output_widget_takes_stays_between_its_begin_and_its_end() -> None:
    messages = [
        state("w", msg_id="m"),
        display("inside"),
        state("w", msg_id=""),
        display("outside"),
        state("w", msg_id="m"),
        state("w", msg_id=""),
    ]
    assert shown(*messages) == messages


@pytest.mark.parametrize("kind", ["display_data", "execute_result"])
def test_a_flood_of_displays_keeps_the_newest_and_counts_the_rest(kind: str) -> None:
    queue = DisplayQueue()
    given_up = sum(queue.show(display(str(number), kind=kind), 0.0) for number in range(10_000))
    assert given_up == 10_000 - MAX_WAITING_DISPLAYS
    assert sent(queue) == [display(str(number), kind=kind) for number in range(given_up, 10_000)]


def test_nothing_is_remembered_of_what_was_sent_or_given_up() -> None:
    queue, budget = DisplayQueue(), DisplayBudget()
    rounds = 3000
    tracemalloc.start()
    sizes = []
    for number in range(rounds):
        now_s = float(number)
        queue.show(display("x" * 100, f"id {number}"), now_s)
        queue.show(state(f"comm {number}", value=1), now_s)
        queue.send(now_s, budget)
        if number % (rounds // 3) == rounds // 3 - 1:
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert not queue.waiting
    assert sizes[-1] - sizes[0] < rounds * 10


def test_a_flood_gives_up_displays_alone() -> None:
    queue = DisplayQueue()
    others = [comm("comm_open", "w"), KernelMessage("k3f9", msg_type="error", content={"ename": "E"})]
    for message in others:
        queue.show(message, 0.0)
    queue.write("stdout", "text\n", 0.0)
    for number in range(2 * MAX_WAITING_DISPLAYS):
        queue.show(display(str(number)), 0.0)
    assert sent(queue)[:4] == [*others, "text\n", display(str(MAX_WAITING_DISPLAYS))]


def test_what_was_sent_makes_room_for_displays() -> None:
    queue, budget = DisplayQueue(), DisplayBudget()
    for number in range(MAX_WAITING_DISPLAYS):
        queue.show(display(str(number)), 0.0)
    assert len(queue.send(0.0, budget)) == RICH_BURST_MESSAGES
    assert [queue.show(display("new"), 0.0) for _ in range(RICH_BURST_MESSAGES + 2)] == [0] * RICH_BURST_MESSAGES + [
        1
    ] * 2


def test_clear_output_takes_back_what_was_not_sent() -> None:
    queue = DisplayQueue()
    queue.write("stdout", "text\n", 0.0)
    queue.show(display("0"), 0.0)
    queue.open(Live("id", "stderr", text="bar"), 0.0)
    queue.clear(CLEAR, 0.0)
    queue.write("stdout", "after\n", 0.0)
    assert sent(queue) == [CLEAR, "after\n"]


def test_clear_output_leaves_widgets_and_displays_of_earlier_cells_alone() -> None:
    queue = DisplayQueue()
    for message in (comm("comm_open", "w"), update("1", "earlier"), display("2", "mine"), state("w", a=1)):
        queue.show(message, 0.0)
    queue.clear(CLEAR, 0.0)
    queue.show(update("3", "mine"), 0.0)
    assert sent(queue) == [
        comm("comm_open", "w"),
        update("1", "earlier"),
        update("3", "mine"),
        state("w", a=1),
        CLEAR,
    ]


def test_clear_output_inside_an_output_widget_clears_that_alone() -> None:
    queue = DisplayQueue()
    queue.write("stdout", "of the cell\n", 0.0)
    for message in (state("w", msg_id="m"), display("inside")):
        queue.show(message, 0.0)
    queue.clear(CLEAR, 0.0)
    assert sent(queue) == ["of the cell\n", state("w", msg_id="m"), CLEAR]


LARGE = "x" * 200_000


@pytest.mark.parametrize(
    "message",
    [
        display(LARGE),
        KernelMessage(msg_type="display_data", content={"data": {"application/vnd.plotly.v1+json": {"y": [LARGE]}}}),
        KernelMessage(msg_type="display_data", content={"data": {"application/json": [0.125] * 40_000}}),
        KernelMessage(msg_type="display_data", content={"data": {}, "metadata": {"a": LARGE}}),
        comm("comm_open", "w", value=LARGE),
        KernelMessage(msg_type="comm_msg", content={"comm_id": "w", "data": {"method": "custom", "content": LARGE}}),
        KernelMessage(msg_type="comm_msg", content={"comm_id": "w"}, buffers=[200_000], payload=bytes(200_000)),
    ],
    ids=["text", "object", "numbers", "metadata", "comm_open", "custom", "buffer"],
)
def test_large_messages_of_any_kind_go_at_the_pace_that_the_server_takes(message: KernelMessage) -> None:
    queue = DisplayQueue()
    for _ in range(40):
        queue.show(message, 0.0)
    assert len(queue.send(0.0, DisplayBudget())) <= RICH_BURST_BYTES // 200_000 + 1


STEP = st.one_of(
    st.tuples(st.just("text"), st.sampled_from(["stdout", "stderr"])),
    st.tuples(st.just("display"), st.sampled_from(["", "d", "e"])),
    st.tuples(st.just("update"), st.sampled_from(["d", "e"])),
    st.tuples(st.just("state"), st.sampled_from(["v", "w"])),
    st.tuples(st.just("open"), st.sampled_from(["x"])),
    st.tuples(st.just("send"), st.just("")),
)


class Page:
    """What a front end shows of actions: texts and displays in order, and the widgets' states."""

    def __init__(self) -> None:
        self.outputs: list[list[object]] = []
        self.states: dict[object, dict[str, object]] = {}
        self.opened = 0

    def take(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, ShowMessage):
                self._show(action.message)
            elif self.outputs and self.outputs[-1][0] == getattr(action, "stream", None):
                self.outputs[-1][1] = str(self.outputs[-1][1]) + action.text
            else:
                self.outputs.append([getattr(action, "stream", None), action.text])

    def _show(self, message: KernelMessage) -> None:
        content = message.content
        display_id = content.get("transient", {}).get("display_id")
        if message.msg_type == "display_data":
            self.outputs.append([("display", display_id), content["data"]])
        if message.msg_type in ("display_data", "update_display_data"):
            for output in self.outputs:
                if display_id is not None and output[0] == ("display", display_id):
                    output[1] = content["data"]
        elif message.msg_type == "comm_open":
            self.opened += 1
        else:
            values = content["data"]["state"]
            assert values["opened"] <= self.opened, "it names a widget that is not there yet"
            self.states.setdefault(content["comm_id"], {}).update(values)


@settings(deadline=None, max_examples=200)
@given(st.lists(STEP, max_size=40))
def test_whatever_was_merged_the_page_ends_the_same(steps: list[tuple[str, str]]) -> None:
    queue, page, plain, opened, now_s = DisplayQueue(), Page(), Page(), 0, 0.0
    budget = DisplayBudget()
    budget.rich.spend(10**9)  # messages wait, so that they can be merged
    for number, (kind, name) in enumerate(steps):
        if kind == "text":
            queue.write(name, f"{number}\n", now_s)
            plain.take([StreamText(name, f"{number}\n")])
        elif kind == "send":
            now_s += 10.0
            page.take(queue.send(now_s, DisplayBudget()))
        else:
            opened += kind == "open"
            message = {
                "display": display(str(number), name),
                "update": update(str(number), name),
                "state": state(name, opened=opened, **{f"a{number % 3}": number}),
                "open": comm("comm_open", name),
            }[kind]
            queue.show(message, now_s)
            plain.take([ShowMessage(message)])
    while queue.waiting:
        page.take(queue.send(now_s, DisplayBudget(), final=True))
    assert page.states == plain.states
    displays = [output for output in plain.outputs if isinstance(output[0], tuple)]
    assert [output for output in page.outputs if isinstance(output[0], tuple)] == displays
    for stream in ("stdout", "stderr"):
        texts = ["".join(str(text) for name, text in found.outputs if name == stream) for found in (page, plain)]
        assert texts[0] == texts[1]
