"""How much a cell may show, and how fast.

Jupyter Server drops *every* message of a kernel while it sends more than 1000 messages or 1,000,000 bytes a second
over 3 seconds (``ZMQChannelsWebsocketConnection.iopub_msg_rate_limit``, ``iopub_data_rate_limit``), and a page lags
from about 650 KB/s on. One flooding cell must stay far below that. Times are handed in, so that tests need no waiting.
"""

from __future__ import annotations

import math

#: Bytes of a cell's output that are shown as a stream. What comes after lives in one display of the newest lines.
HEAD_BYTES = 600_000
#: Size in bytes of that display while the run goes on, and when it has ended.
LIVE_TAIL_BYTES = 8_000
TAIL_BYTES = 32_000

#: Time between two writes, in seconds.
INTERVAL_S = 0.2
MESSAGES_PER_S = 5.0
#: Messages that may go at once after a quiet time: stdout and stderr in turns.
BURST_MESSAGES = 5
BYTES_PER_S = 200_000.0
BURST_BYTES = 100_000
#: The same for what a Python cell shows besides text: widgets, pictures and animations need more, and it stays far
#: below the server's limits too.
RICH_MESSAGES_PER_S = 20.0
RICH_BURST_MESSAGES = 50
RICH_BYTES_PER_S = 300_000.0
RICH_BURST_BYTES = 2_000_000
#: At the end of a run everything that waits is shown, in at most about this many messages.
FINAL_MESSAGES = 50


class RichBudget:
    """Two token buckets for messages that are no text."""

    def __init__(self) -> None:
        self._messages = float(RICH_BURST_MESSAGES)
        self._bytes = float(RICH_BURST_BYTES)
        self._filled_s = -math.inf

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next message may be sent; it may be larger than the bytes that are left."""
        self._fill(now_s)
        return max(0.0, (1.0 - 1e-6 - self._messages) / RICH_MESSAGES_PER_S, -self._bytes / RICH_BYTES_PER_S)

    def spend(self, size_bytes: int) -> None:
        """Note that a message was sent."""
        self._messages -= 1
        self._bytes -= size_bytes

    def _fill(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self._filled_s)
        self._filled_s = max(now_s, self._filled_s)
        if passed_s < math.inf:
            self._messages = min(float(RICH_BURST_MESSAGES), self._messages + passed_s * RICH_MESSAGES_PER_S)
            self._bytes = min(float(RICH_BURST_BYTES), self._bytes + passed_s * RICH_BYTES_PER_S)


class DisplayBudget:
    """Two token buckets, for messages and for bytes, and the time between two writes."""

    def __init__(self) -> None:
        self.rich = RichBudget()
        self._messages = float(BURST_MESSAGES)
        self._bytes = float(BURST_BYTES)
        self._filled_s = -math.inf
        self._written_s = -math.inf

    def messages(self, now_s: float) -> int:
        """How many messages may be sent now."""
        self._fill(now_s)
        # A sum of tenths is never whole: a token that lacks a millionth is there.
        return int(self._messages + 1e-6)

    def size_bytes(self, now_s: float) -> int:
        """How many bytes may be sent now. Negative after a message that could not be cut."""
        self._fill(now_s)
        return int(self._bytes)

    def spend(self, now_s: float, messages: int, size_bytes: int) -> None:
        """Note that ``messages`` with ``size_bytes`` in all were sent now."""
        self._fill(now_s)
        self._messages -= messages
        self._bytes -= size_bytes
        self._written_s = now_s

    def next_s(self, now_s: float) -> float:
        """When the next write may happen: one message, and half of an interval's bytes."""
        self._fill(now_s)
        wait_s = max(
            (1.0 - 1e-6 - self._messages) / MESSAGES_PER_S,
            (BYTES_PER_S * INTERVAL_S / 2 - self._bytes) / BYTES_PER_S,
            0.0,
        )
        return max(self._written_s + INTERVAL_S, now_s + wait_s if wait_s else -math.inf)

    def _fill(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self._filled_s)
        self._filled_s = max(now_s, self._filled_s)
        if passed_s < math.inf:
            self._messages = min(float(BURST_MESSAGES), self._messages + passed_s * MESSAGES_PER_S)
            self._bytes = min(float(BURST_BYTES), self._bytes + passed_s * BYTES_PER_S)
