"""Which messages may stand for one another: the last state is the same, and what is no state stays."""

from __future__ import annotations

from typing import Any

import pytest

from skyrl_magic.core.display_merge import is_state, merge_key, merged_message, takes_outputs
from skyrl_magic.core.protocol import KernelMessage


def display(text: str, display_id: object = None, kind: str = "display_data") -> KernelMessage:
    transient = {} if display_id is None else {"transient": {"display_id": display_id}}
    return KernelMessage("k3f9", msg_type=kind, content={"data": {"text/plain": text}, "metadata": {}, **transient})


def update(text: str, display_id: object) -> KernelMessage:
    return display(text, display_id, "update_display_data")


def comm(data: Any, comm_id: str = "w1", kind: str = "comm_msg", buffers: list[int] | None = None) -> KernelMessage:
    content = {"comm_id": comm_id, "data": data}
    return KernelMessage("k3f9", 0, kind, content, {}, buffers or [], bytes(sum(buffers or [])))


def state(comm_id: str = "w1", **values: object) -> KernelMessage:
    return comm({"method": "update", "state": values, "buffer_paths": []}, comm_id)


def test_an_update_takes_the_place_of_what_its_display_had_to_show() -> None:
    assert merged_message(display("0", "d"), update("1", "d")) == display("1", "d")
    assert merged_message(update("0", "d"), update("1", "d")) == update("1", "d")


@pytest.mark.parametrize(
    ("waiting", "new"),
    [
        (display("0", "d"), display("1", "d")),  # shows it in a second place
        (display("0", "d"), update("1", "e")),
        (display("0", 1), update("1", "1")),
        (display("0"), update("1", "d")),
        (display("0"), display("0")),
        (display("0", "d", "execute_result"), update("1", "d")),
        (KernelMessage(msg_type="error"), KernelMessage(msg_type="error")),
        (state(value=1), state("w2", value=2)),
        (state(value=1), comm({"method": "custom", "content": {}})),
        (comm({"method": "custom", "content": {}}), state(value=1)),
        (state(value=1), comm({"method": "echo_update", "state": {"value": 1}})),
        (state(value=1), comm({"method": "update", "state": {"value": 2}}, buffers=[3])),
        (comm({"method": "update", "state": {"value": 2}}, buffers=[3]), state(value=1)),
        (comm({"state": {"value": 0}}, kind="comm_open"), state(value=1)),
        (state(value=1), comm({}, kind="comm_close")),
        (state(value=1), state(msg_id="m")),
        (state(msg_id="m"), state(msg_id="")),
        (state(value=1), comm({"method": "update", "state": [1]})),
        (state(value=1), comm("no object")),
    ],
)
def test_what_must_stay_apart_is_not_merged(waiting: KernelMessage, new: KernelMessage) -> None:
    assert merged_message(waiting, new) is None


def test_a_widgets_new_state_is_added_to_the_one_before() -> None:
    merged = merged_message(state(value=1, description="step"), state(value=2, max=10))
    assert merged == state(value=2, description="step", max=10)


def test_merging_changes_neither_of_the_two() -> None:
    waiting, new = state(value=1, bar="a"), state(value=2)
    merged_message(waiting, new)
    assert (waiting, new) == (state(value=1, bar="a"), state(value=2))


@pytest.mark.parametrize(
    ("message", "key"),
    [
        (display("0", "d"), ("display", "d")),
        (update("0", "d"), ("display", "d")),
        (display("0"), None),
        (display("0", "d", "execute_result"), None),
        (state("w7", value=1), ("comm", "w7")),
        (comm({}, "w7", "comm_open"), None),
        (comm({}, "w7", "comm_close"), None),
        (KernelMessage(msg_type="display_data", content={"transient": "none"}), None),
        (KernelMessage(msg_type="error"), None),
    ],
)
def test_what_belongs_together(message: KernelMessage, key: object) -> None:
    assert merge_key(message) == key


def test_ids_of_any_type_can_be_looked_up() -> None:
    assert {merge_key(display("0", ["a"])), merge_key(comm({}, comm_id={"b": 1}))}  # type: ignore[arg-type]


def test_a_widget_that_takes_the_cells_outputs_is_told_from_one_that_does_not() -> None:
    assert takes_outputs(state(msg_id="m"))
    assert takes_outputs(state(msg_id=""))
    assert takes_outputs(comm({"state": {"msg_id": "m"}}, kind="comm_open"))
    assert not takes_outputs(state(value="msg_id"))
    assert not takes_outputs(comm({"state": "msg_id"}))
    assert not takes_outputs(display("msg_id"))


def test_a_state_has_no_place_among_what_is_printed() -> None:
    assert is_state(state(value=1))
    assert not is_state(state(msg_id="m"))
    assert not is_state(comm({"method": "custom", "content": {}}))
    assert not is_state(comm({"state": {}}, kind="comm_open"))
    assert not is_state(update("1", "d"))
