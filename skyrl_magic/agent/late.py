"""What a run's threads show after its cell has ended: kept in the run's journal, and shown where the cell is.

It travels live, past the watch that ended with the run, so there is a bound on it: of a thread that never stops
printing a notebook sees the beginning of each second, and the journal has the rest.
"""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from skyrl_magic.agent.kernel_run import KernelRun, live_message
from skyrl_magic.core import protocol

#: Least time between two sends, in seconds, and what one holds at most: characters of a run's text, other messages.
_INTERVAL_S = 0.2
_MAX_CHARS = 8_000
_MAX_MESSAGES = 20

Message = Dict[str, Any]


class LateOutput:
    """Collects late messages and sends them in turns."""

    def __init__(self, send: Callable[[protocol.Message], None]) -> None:
        self._send = send
        self._waiting: List[Tuple[str, Message]] = []
        self._chars = 0
        self._left_out: Dict[str, int] = {}
        self._next_at = 0.0

    def add(self, run: KernelRun, message: Message) -> None:
        """Keep ``message`` in the journal of ``run``, and show it when its turn comes."""
        run.record(message)
        text = message["msg_type"] == "stream"
        size = sum(map(len, (message["content"].get("text", ""), *message["buffers"]))) if text else 0
        full = len(self._waiting) >= _MAX_MESSAGES and not size
        if full or (size and self._chars + size > _MAX_CHARS):
            self._left_out[run.run_id] = self._left_out.get(run.run_id, 0) + max(size, 1)
            return
        self._chars += size
        self._waiting.append((run.run_id, message))

    def wait_s(self) -> Optional[float]:
        """Seconds until :meth:`flush` has something to do, or None."""
        if not self._waiting and not self._left_out:
            return None
        return max(0.0, self._next_at - time.monotonic())

    def flush(self) -> None:
        """Send what waits, if it is time."""
        if self.wait_s() != 0.0:
            return
        self._next_at = time.monotonic() + _INTERVAL_S
        for run_id, message in self._waiting:
            self._send(live_message(message, run_id))
        for run_id in self._left_out:
            text = f"… late output left out here; %skyrl_logs {run_id} has all of it\n"
            self._send(protocol.KernelMessage(run_id, 0, "stream", {"name": protocol.STDERR, "text": text}))
        self._waiting.clear()
        self._left_out.clear()
        self._chars = 0
