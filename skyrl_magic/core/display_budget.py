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
#: What a flood leaves of the kernel's bytes: for its own tail, and for the next cell.
FLOOD_RESERVE_BYTES = 3 * TAIL_BYTES

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
#: What all cells of a kernel may send together, text, displays and all: in any 3 s at most 1.2 + 3 * 0.5 = 2.7 MB of
#: the server's 3 MB, and 2500 of its 3000 messages, so that a loop of floods in one cell keeps within it too. One cell
#: that shows all it may (0.6 MB and a tail) never waits for it.
KERNEL_BYTES_PER_S = 500_000.0
KERNEL_BURST_BYTES = 1_200_000
KERNEL_MESSAGES_PER_S = 500.0
KERNEL_BURST_MESSAGES = 1000
#: Who had to wait for it goes on when so many bytes may be sent.
_KERNEL_PORTION_BYTES = 50_000
#: What one message of many MB costs those after it at most: the server's window of 3 s is over then.
_KERNEL_DEBT_BYTES = 1_000_000.0
#: At the end of a run all text that waits is shown, in at most about this many messages. What waits beside text (at
#: most ``display_queue.MAX_WAITING_DISPLAYS``, and widgets' messages) goes with it, as fast as all cells may send.
FINAL_MESSAGES = 50


class KernelBudget:
    """Two token buckets for all that a kernel's cells send, as on the wire: the guard of the server's limits."""

    def __init__(self) -> None:
        self._messages = float(KERNEL_BURST_MESSAGES)
        self._bytes = float(KERNEL_BURST_BYTES)
        self._filled_s = -math.inf

    def size_bytes(self, now_s: float) -> float:
        """How many bytes may be sent now; none where no message may be sent."""
        self._fill(now_s)
        return self._bytes if self._messages >= 1 - 1e-6 else 0.0

    def wait_s(self, now_s: float) -> float:
        """Seconds until more may be sent."""
        self._fill(now_s)
        lacking_bytes = min(_KERNEL_PORTION_BYTES, KERNEL_BURST_BYTES) - self._bytes
        return max(0.0, (1 - self._messages) / KERNEL_MESSAGES_PER_S, lacking_bytes / KERNEL_BYTES_PER_S)

    def spend(self, now_s: float, messages: int, size_bytes: int) -> None:
        """Note that messages were sent."""
        self._fill(now_s)
        self._messages -= messages
        self._bytes = max(self._bytes - size_bytes, -_KERNEL_DEBT_BYTES)

    def _fill(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self._filled_s)
        self._filled_s = max(now_s, self._filled_s)
        if passed_s < math.inf:
            self._messages = min(float(KERNEL_BURST_MESSAGES), self._messages + passed_s * KERNEL_MESSAGES_PER_S)
            self._bytes = min(float(KERNEL_BURST_BYTES), self._bytes + passed_s * KERNEL_BYTES_PER_S)


class RichBudget:
    """Two token buckets for messages that are no text, beside those of all cells.

    Args:
        kernel: what all cells may send.
    """

    def __init__(self, kernel: KernelBudget) -> None:
        self._kernel = kernel
        self._messages = float(RICH_BURST_MESSAGES)
        self._bytes = float(RICH_BURST_BYTES)
        self._filled_s = -math.inf

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next message may be sent; it may be larger than the bytes that are left."""
        self._fill(now_s)
        own_s = max(0.0, (1.0 - 1e-6 - self._messages) / RICH_MESSAGES_PER_S, -self._bytes / RICH_BYTES_PER_S)
        return own_s if self._kernel.size_bytes(now_s) > 0 else max(own_s, self._kernel.wait_s(now_s))

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
    """Two token buckets of one cell, for messages and for bytes, and the time between two writes.

    Args:
        kernel: what all cells may send; by default there is no other one.
    """

    def __init__(self, kernel: KernelBudget | None = None) -> None:
        self.kernel = kernel or KernelBudget()
        self.rich = RichBudget(self.kernel)
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
            0.0 if self.kernel.size_bytes(now_s) > 0 else self.kernel.wait_s(now_s),
        )
        return max(self._written_s + INTERVAL_S, now_s + wait_s if wait_s else -math.inf)

    def _fill(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self._filled_s)
        self._filled_s = max(now_s, self._filled_s)
        if passed_s < math.inf:
            self._messages = min(float(BURST_MESSAGES), self._messages + passed_s * MESSAGES_PER_S)
            self._bytes = min(float(BURST_BYTES), self._bytes + passed_s * BYTES_PER_S)
