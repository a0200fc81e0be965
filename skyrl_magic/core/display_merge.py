"""Which messages of a Python cell can stand for one another while they wait to be shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from skyrl_magic.core.protocol import KernelMessage

CLEAR_OUTPUT = "clear_output"
COMM_OPEN = "comm_open"
COMM_TYPES = frozenset({COMM_OPEN, "comm_msg", "comm_close"})
DISPLAYS = frozenset({"display_data", "update_display_data", "execute_result"})
#: What a ``clear_output`` that waits waits for, beside text: an update has its place already.
_OUTPUTS = frozenset({"display_data", "execute_result", "error"})
_NAMED = ("display_data", "update_display_data")


def is_output(message: KernelMessage) -> bool:
    """Whether the cell's outputs become one more."""
    return message.msg_type in _OUTPUTS


def takes_outputs(message: KernelMessage) -> bool:
    """Whether a widget begins or ends to take what the cell shows: it has its place among that."""
    data = message.content.get("data")
    state = data.get("state") if isinstance(data, dict) else None
    return message.msg_type in COMM_TYPES and isinstance(state, dict) and "msg_id" in state


def merge_key(message: KernelMessage) -> object:
    """What two messages have in common that may stand for one another; None for a message that stands alone."""
    if message.msg_type in _NAMED:
        display_id = display_id_of(message)
        return None if display_id is None else ("display", str(display_id))
    return ("comm", str(message.content.get("comm_id"))) if message.msg_type == "comm_msg" else None


def merged_message(waiting: KernelMessage, new: KernelMessage) -> KernelMessage | None:
    """``waiting`` with the state of ``new``, where showing that alone comes to the same in the end; else None.

    An update of a display overtakes what that display had to show; a widget's new state is added to the one before.
    """
    if new.msg_type == "update_display_data" and waiting.msg_type in _NAMED:
        same = display_id_of(waiting) is not None and display_id_of(waiting) == display_id_of(new)
        return dataclasses.replace(new, msg_type=waiting.msg_type) if same else None
    if new.msg_type == waiting.msg_type == "comm_msg":
        return _merged_state(waiting, new)
    return None


def is_state(message: KernelMessage) -> bool:
    """Whether a message only sets a widget's state, which has no place among what is printed."""
    return message.msg_type == "comm_msg" and _update(message) is not None


def display_id_of(message: KernelMessage) -> object:
    """The id by which a display is updated; None where it has none."""
    transient = message.content.get("transient")
    return transient.get("display_id") if isinstance(transient, dict) else None


def _merged_state(waiting: KernelMessage, new: KernelMessage) -> KernelMessage | None:
    before, after = _update(waiting), _update(new)
    if before is None or after is None or waiting.content.get("comm_id") != new.content.get("comm_id"):
        return None
    content = dict(new.content)
    content["data"] = {**content["data"], "state": {**before, **after}}
    return dataclasses.replace(new, content=content)


def _update(message: KernelMessage) -> Mapping[str, Any] | None:
    """The state that a widget's message sets, where it has no binary part (those belong to paths in it)."""
    data = message.content.get("data")
    if not isinstance(data, dict) or data.get("method") != "update" or message.buffers:
        return None
    state = data.get("state")
    # An Output widget's msg_id says whose output it takes from now on: what comes before it and behind it matters.
    return state if isinstance(state, dict) and "msg_id" not in state else None
