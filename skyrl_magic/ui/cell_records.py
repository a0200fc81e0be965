"""Records of what cells show that are this package's alone, so that they can be filled again.

In a cell that is one of our magics and nothing else, all that is shown is shown through ``ui.display`` and
``ui.cell_outputs``, which write it down here. A longer cell, or one under ``%%capture``, shows more, and has no record.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from IPython.core.getipython import get_ipython

from skyrl_magic.core.cell_record import CellRecord
from skyrl_magic.core.protocol import KernelMessage

#: Cells whose records are kept: several can run at once, where a front end uses subshells.
_KEPT = 16

_lock = threading.Lock()
_records: OrderedDict[str, CellRecord | None] = OrderedDict()


def record_of(parent: Mapping[str, Any]) -> CellRecord | None:
    """The record of the cell that a front end has sent with this message; None where it has none."""
    msg_id = str(parent.get("header", {}).get("msg_id", ""))
    with _lock:
        if msg_id not in _records:
            _records[msg_id] = CellRecord() if _is_alone(parent.get("content", {}).get("code")) else None
            if len(_records) > _KEPT:
                _records.popitem(last=False)
        return _records[msg_id]


def current_record() -> CellRecord | None:
    """The record of the cell that the calling thread executes."""
    shell: Any = get_ipython()
    kernel = getattr(shell, "kernel", None)
    return None if kernel is None else record_of(kernel.get_parent())


def update_records(display_id: str, data: Mapping[str, str]) -> None:
    """A display shows something else, whichever cell it is in; from any thread."""
    _each(lambda record: record.update(display_id, data))


def take_update(message: KernelMessage) -> None:
    """The same for a Python cell's ``update_display_data``."""
    _each(lambda record: record.take(message))


def clear_output() -> bool:
    """Have the cell cleared when its next output comes; False where a front end would not hear of it."""
    shell: Any = get_ipython()
    if not hasattr(shell.display_pub, "pub_socket") or not hasattr(sys.stdout, "pub_thread"):
        return False  # somebody captures what the cell shows
    shell.display_pub.clear_output(wait=True)
    return True


def _each(do: Callable[[CellRecord], None]) -> None:
    with _lock:
        records = [record for record in _records.values() if record is not None]
    for record in records:
        do(record)


def _is_alone(code: object) -> bool:
    """Whether a cell is one magic of ours: a cell magic, or a line magic that is the only line."""
    text = code.strip() if isinstance(code, str) else ""
    return text.startswith("%%skyrl_") or (text.startswith("%skyrl_") and "\n" not in text)
