r"""What a notebook cell is to show of a run, message by message.

A :class:`DisplayPlan` takes a run's :class:`Output` and :class:`Gap` frames and says, when asked, which messages are
due. It holds no display and no clock: ``ui.display`` carries the actions out.

Plain lines become stream text, in the order of their arrival. A line that is being redrawn (a progress bar) is put
into a *live* display instead, which is updated in place and keeps the line's last state: a ``\r`` inside stream text
would stay in a saved notebook, and a bar on stderr would be broken by every line on stdout. A partial line waits
:data:`HOLD_S` for its rest and is shown as stream text then; where it is redrawn after that, one ``\r`` with the whole
line follows, which JupyterLab and ``nbconvert --coalesce-streams`` apply.

Finished lines that the cursor comes to again (a block of bars that moves up from below it) are shown anew in a live
display. Where they were sent as stream text, the cell is filled again without them (``core.cell_record``); where it is
not this package's alone, their first state stays above the display, as no message can change it.

After :data:`HEAD_BYTES`, or at the first gap, the newest lines of both streams live in one display, the tail.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

from skyrl_magic.core.cell_record import CellRecord, wire_bytes
from skyrl_magic.core.display_budget import (
    FLOOD_RESERVE_BYTES,
    HEAD_BYTES,
    LIVE_TAIL_BYTES,
    TAIL_BYTES,
    DisplayBudget,
    KernelBudget,
)
from skyrl_magic.core.display_intake import Intake
from skyrl_magic.core.display_merge import CLEAR_OUTPUT, is_output, is_state, takes_outputs
from skyrl_magic.core.display_queue import Action, Again, DisplayQueue, Live
from skyrl_magic.core.display_tail import Tail
from skyrl_magic.core.protocol import STREAMS, Gap, KernelMessage, Output
from skyrl_magic.core.ray_noise import RayNoise
from skyrl_magic.core.streams import Row, Screen, Stamp

#: How long a partial line waits for its rest, in seconds.
HOLD_S = 0.1
#: Rows of one live display; older ones go into a display of their own, so that updates stay small.
LIVE_ROWS = 40
#: Rows that wait for the next write; more are decided at once, so that memory stays flat.
_WAITING_ROWS = 256
#: Bytes that are taken apart at once, so that a frame of newlines only does not become a million rows.
_SLICE_BYTES = 16_384
#: Where what follows does not need what came before: a new line, or an old one that is drawn anew.
_LINE_BEGIN = re.compile(rb"[\r\n]")


class _Channel:
    """One stream of the run: its screen, and the display of its redrawn lines."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.screen = Screen()
        self.live: Live | None = None
        self.due_s: float | None = None
        self.instead_of: Again | None = None
        """What the next live display shows anew of what was sent."""


class DisplayPlan:
    """The messages for one cell; times are a monotonic clock's, in seconds.

    Args:
        run_id: the run, for the line about what was left out.
        prefix: makes its display ids unique.
        kernel: what the cells of this kernel may show together; by default this is the only one.
        start: the offsets at which the streams begin here (see ``Intake``).
        whole: Ray's lines about itself are shown too.
        record: of what the cell shows; None where it is not to be filled again.
    """

    def __init__(  # noqa: PLR0913  (each has a default that fits most)
        self,
        run_id: str,
        prefix: str,
        kernel: KernelBudget | None = None,
        *,
        start: Mapping[str, int] | None = None,
        whole: bool = False,
        record: CellRecord | None = None,
    ) -> None:
        self.intake = Intake(start)
        self._prefix = prefix
        self._budget = DisplayBudget(kernel)
        self._noise = None if whole else RayNoise()
        self._queue = DisplayQueue()
        self._channels = {name: _Channel(name) for name in STREAMS}
        self._run_id = run_id
        self._record = record
        self._tail = Tail(run_id)
        self._tail_live: Live | None = None
        self._left_out_live: Live | None = None
        self._left_out = 0
        self._head_bytes = 0
        self._number = 0
        self._clear: KernelMessage | None = None
        """A ``clear_output(wait=True)`` that no output has followed yet."""

    def feed(self, event: Output | Gap, now_s: float) -> None:
        """Take the run's next frame. Raises :class:`ProtocolError` for a damaged one."""
        missing_bytes, data = self.intake.take(event)
        channel = self._channels[event.stream]
        if missing_bytes or data:
            self._clear_at_last(now_s)
        if missing_bytes:
            self._leave_out(channel, missing_bytes, now_s)
        if data:
            self._write(channel, data, now_s)

    def show(self, message: KernelMessage, now_s: float) -> None:
        """Take a message of a Python cell: what was printed before it is shown before it."""
        if message.msg_type == CLEAR_OUTPUT:
            self._clear = message
            if not message.content.get("wait"):
                self._clear_at_last(now_s)
            return
        if is_output(message):
            self._clear_at_last(now_s)
        elif takes_outputs(message):
            self.pass_clear_on(now_s)
        if not is_state(message):
            self._settle(now_s, final=True)
            self._cut_off()
        given_up = self._queue.show(message, now_s)
        if given_up:
            if self._left_out_live is None:
                self._left_out_live = self._new_live("")
                self._queue.open_first(self._left_out_live, now_s)
            self._left_out += given_up
            text = f"… {self._left_out:,} displays left out here; the log of run {self._run_id} has them"
            self._queue.change(self._left_out_live, text, now_s)

    def pass_clear_on(self, now_s: float) -> None:
        """What comes next is shown past this plan: a ``clear_output`` that waits for it waits in the front end."""
        if self._clear is None:
            return
        message, self._clear = self._clear, None
        self._settle(now_s, final=True)
        self._show_tail(now_s, TAIL_BYTES)
        self._forget_shown(now_s)
        self._queue.show(message, now_s)

    @property
    def full_screen(self) -> bool:
        """Whether the run has drawn on a whole screen, which a cell is not."""
        return any(channel.screen.full_screen for channel in self._channels.values())

    @property
    def settled(self) -> bool:
        """Whether all that was fed has been sent."""
        return not self._queue.waiting and all(channel.due_s is None for channel in self._channels.values())

    def due_s(self, now_s: float) -> float | None:
        """When to ask for messages next; None while there is nothing to show."""
        times = [channel.due_s for channel in self._channels.values() if channel.due_s is not None]
        if self._queue.waiting:
            times.append(now_s + self._queue.wait_s(now_s, self._budget))
        return max(min(times), self._budget.next_s(now_s)) if times else None

    def messages(self, now_s: float) -> list[Action]:
        """The messages that are due now."""
        due_s = self.due_s(now_s)
        if due_s is None or due_s > now_s:
            return []
        self._settle(now_s)
        self._show_tail(now_s, LIVE_TAIL_BYTES)
        return self._queue.send(now_s, self._budget)

    def finish(self, now_s: float) -> list[Action]:
        """The last messages: the run is over, or is watched no more. Where :meth:`rest_s` says so, ask again."""
        for channel in self._channels.values():
            channel.screen.feed(b"", self._stamp(now_s), final=True)
            channel.screen.row_index = len(channel.screen.rows) - 1
        self._settle(now_s, final=True)
        for channel in self._channels.values():
            if channel.live:
                self._close(channel, channel.live.rows, now_s)
                row = channel.screen.current
                row.mark_sent(len(row.text()))  # the display has it: asked again, it is not shown again
        if self._tail_live:
            # A flood leaves text out anyway: after other floods it leaves out more, and its cell need not wait.
            room_bytes = self._budget.kernel.size_bytes(now_s) - FLOOD_RESERVE_BYTES
            self._tail.leave_out(*self._queue.leave_out_before(self._tail_live, room_bytes))
        self._show_tail(now_s, TAIL_BYTES)
        rest = self._noise.rest() if self._noise else ""
        if rest:
            self._note(rest, now_s)
        return self._queue.send(now_s, self._budget, final=True)

    def rest_s(self, now_s: float) -> float | None:
        """After :meth:`finish`: when to call it again, in seconds from now; None where everything was sent.

        What one cell shows is sent at once; what is shown after other cells' floods keeps to what the server takes.
        """
        return self._budget.kernel.wait_s(now_s) if self._queue.waiting else None

    def _clear_at_last(self, now_s: float) -> None:
        """There is output for which a ``clear_output`` may have waited: what came before that is gone now."""
        if self._clear is not None:
            message, self._clear = self._clear, None
            self._forget_shown(now_s)
            self._queue.clear(message, now_s)

    def _forget_shown(self, now_s: float) -> None:
        """The front end clears the cell: nothing that was shown can be changed any more."""
        for channel in self._channels.values():
            channel.screen.break_off(self._stamp(now_s))
            channel.screen.take(channel.screen.row_index)
            channel.screen.cut_off()
            channel.live, channel.due_s = None, None
        self._tail, self._tail_live = Tail(self._run_id), None
        self._left_out_live, self._left_out = None, 0

    # --- bytes in ---------------------------------------------------------------------------------------------------

    def _stamp(self, now_s: float) -> Stamp:
        self._number += 1
        return Stamp(now_s, self._number)

    def _write(self, channel: _Channel, data: bytes, now_s: float) -> None:
        at = 0
        while at < len(data):
            if self._tail_live and len(data) - at > 2 * TAIL_BYTES:
                begin = _LINE_BEGIN.search(data, len(data) - TAIL_BYTES)
                cut = begin.end() if begin else len(data) - TAIL_BYTES
                self._tail.leave_out(cut - at, data.count(b"\n", at, cut))
                channel.screen.break_off(self._stamp(now_s))
                at = cut
            channel.screen.feed(data[at : at + _SLICE_BYTES], self._stamp(now_s))
            at += _SLICE_BYTES
            if len(channel.screen.rows) > _WAITING_ROWS:
                self._settle(now_s)
        self._set_due(channel, now_s)

    def _leave_out(self, channel: _Channel, size_bytes: int, now_s: float) -> None:
        channel.screen.break_off(self._stamp(now_s))
        self._settle(now_s)
        self._begin_tail(now_s)
        self._tail.leave_out(size_bytes, None)
        channel.due_s = now_s

    def _set_due(self, channel: _Channel, now_s: float) -> None:
        screen = channel.screen
        if self._tail_live or channel.live or screen.row_index or screen.moving:
            channel.due_s = now_s if channel.due_s is None else min(channel.due_s, now_s)
        else:
            since = screen.current.unsent_since
            channel.due_s = since.time_s + HOLD_S if since else None

    # --- rows to stream text and displays ---------------------------------------------------------------------------

    def _settle(self, now_s: float, *, final: bool = False) -> None:
        """Decide what becomes of the rows that came since the last time."""
        decided: list[tuple[Stamp, _Channel, Row | None]] = []
        for channel in self._channels.values():
            channel.due_s = None
            decided += [(stamp, channel, row) for stamp, row in self._settle_channel(channel, now_s, final=final)]
        for _, channel, row in sorted(decided, key=lambda entry: entry[0]):
            if row is None:
                self._open(channel, now_s)
            else:
                self._show_row(channel, row, now_s)
        for channel in self._channels.values():
            screen = channel.screen
            if screen.current.unsent_since and not (channel.live or self._tail_live or screen.moving):
                channel.due_s = screen.current.unsent_since.time_s + HOLD_S

    def _settle_channel(self, channel: _Channel, now_s: float, *, final: bool) -> list[tuple[Stamp, Row | None]]:
        """The rows to show as stream text, each with when it came; None stands for a display of the rows from there."""
        screen = channel.screen
        if screen.reached:
            again = self._take_back(channel, now_s)
            count, screen.reached = len(screen.reached), []
            if channel.live:
                channel.live.rows += count
                if again:
                    self._queue.show_instead_of(channel.live, again, now_s)
            elif not self._tail_live:
                channel.instead_of = again
                return [(self._stamp(now_s), None)]
        if channel.live and self._stays_live(channel, channel.live, now_s):
            return []
        taken = screen.take(screen.row_index)
        # Rows stay in their order, however late one was drawn anew.
        decided: list[tuple[Stamp, Row | None]] = list(
            zip(itertools.accumulate((row.changed for row in taken), max), taken, strict=True)
        )
        row = screen.current
        if self._tail_live or not row.unsent_since:
            return decided
        may_return = row.sent_chars and (self._queue.last == channel.name or not (row.stale or row.padded))
        if screen.moving and not may_return and not final:
            if any(row.width for row in screen.rows):
                decided.append((max([row.born, *(stamp for stamp, _ in decided)]), None))
        elif final or row.sent_chars or now_s >= row.unsent_since.time_s + HOLD_S - 1e-6:
            decided.append((max([row.changed, *(stamp for stamp, _ in decided)]), row))
        return decided

    def _take_back(self, channel: _Channel, now_s: float) -> Again | None:
        """The lines that the cursor came to again are shown anew; returns what of them was sent and can be taken back.

        The line below them may have been shown in part.
        """
        screen = channel.screen
        below = screen.rows[len(screen.reached)]
        rows = [*screen.reached, *([below] if below.sent else [])]
        sent = self._queue.take_back(channel.name, "".join(row.shown for row in rows))
        if sent is None:
            return None
        if sent and channel.live and channel.live.instead_of:
            sent += channel.live.instead_of.lines
        outputs = self._record.without(channel.name, sent) if self._record and sent and not self._tail_live else None
        if sent and outputs is None:
            return None
        if below.sent:
            below.forget_sent(self._stamp(now_s))
        return Again(sent, wire_bytes(outputs)) if outputs is not None else None

    def _show_row(self, channel: _Channel, row: Row, now_s: float) -> None:
        finished = row is not channel.screen.current
        complete = finished and not (row.sent or row.wrapped or row.continued)
        if self._noise and complete and self._fold(self._noise, row, now_s):
            return
        if self._tail_live:
            if finished:
                self._tail.add(row.text() + row.end)
            return
        text = row.text(row.sent)
        before, chars = row.sent_chars, row.sent_chars + len(text)
        shown_again = ""
        if row.padded and row.unsent_since:
            row.stale = True
        if row.stale:
            # The front end overlays by characters and nbconvert replaces the line: with the padding, both are right.
            text = row.text().ljust(row.sent_chars)
            chars = len(text)
            if self._queue.last == channel.name:
                text = ("\n" if row.continued else "\r") + text
                shown_again = text[: before + 1]  # it takes the place of what was shown of the line
        row.mark_sent(chars)
        row.shown = row.text() + (row.end if finished else "")
        text += row.end if finished else ""
        if text:
            self._queue.write(channel.name, text, now_s)
            self._use_head(text.removeprefix(shown_again), now_s)
        if finished:
            channel.screen.give_back(row)

    def _fold(self, noise: RayNoise, row: Row, now_s: float) -> bool:
        """Whether the line was Ray's own, and something shorter is shown for it."""
        line = row.text()
        folded = noise.fold(line)
        if folded == line:
            return False
        if folded is not None and self._tail_live:
            self._tail.add(folded + row.end)
        elif folded is not None:
            self._note(folded, now_s)
        self._cut_off()
        return True

    def _note(self, line: str, now_s: float) -> None:
        """A line of ours: no part of the streams, and so in no colour of theirs."""
        live = self._new_live("")
        self._queue.open(live, now_s)
        self._queue.change(live, line, now_s)

    def _use_head(self, text: str, now_s: float) -> None:
        self._head_bytes += len(text.encode())
        if self._head_bytes >= HEAD_BYTES:
            self._begin_tail(now_s)

    # --- displays of redrawn lines ----------------------------------------------------------------------------------

    def _stays_live(self, channel: _Channel, live: Live, now_s: float) -> bool:
        """Update the display, or close it where what follows its lines does not belong into it."""
        screen = channel.screen
        rose, screen.rose = screen.rose, False
        if screen.row_index > live.rows or (screen.row_index == live.rows and screen.current.width):
            grows = screen.moving or (rose and screen.row_index < LIVE_ROWS)
            if not grows or self._queue.last is not live:
                self._close(channel, live.rows, now_s)
                return False
            if screen.row_index >= LIVE_ROWS:
                self._close(channel, screen.row_index - LIVE_ROWS // 2, now_s)
                self._open(channel, now_s)
                return True
        self._redraw(channel, live, now_s)
        return True

    def _open(self, channel: _Channel, now_s: float) -> None:
        if self._tail_live:
            return
        channel.live = self._new_live(channel.name)
        channel.live.instead_of, channel.instead_of = channel.instead_of, None
        self._queue.open(channel.live, now_s)
        self._redraw(channel, channel.live, now_s)

    def _cut_off(self) -> None:
        """What was shown so far is drawn anew no more, wherever the cursor is moved."""
        for channel in self._channels.values():
            channel.screen.cut_off()

    def _new_live(self, stream: str) -> Live:
        self._number += 1
        return Live(f"{self._prefix}-{self._number}", stream)

    def _redraw(self, channel: _Channel, live: Live, now_s: float) -> None:
        rows = channel.screen.rows
        used = [index + 1 for index, row in enumerate(rows) if row.width]
        live.rows = max([live.rows, *used])
        self._queue.change(live, _joined(rows[: live.rows]), now_s)

    def _close(self, channel: _Channel, count: int, now_s: float) -> None:
        """The display keeps the screen's first ``count`` rows as they are."""
        live, channel.live = channel.live, None
        if live is None:
            return
        text = _joined(channel.screen.rows[:count])
        channel.screen.take(count)
        channel.screen.cut_off()
        self._queue.change(live, text, now_s)
        self._queue.close(live)
        self._use_head(text, now_s)

    # --- the tail ---------------------------------------------------------------------------------------------------

    def _begin_tail(self, now_s: float) -> None:
        if self._tail_live:
            return
        self._tail_live = self._new_live("")
        self._cut_off()
        for channel in self._channels.values():
            # A line that is still redrawn goes on in the tail; it must not stay above in an old state.
            self._close(channel, channel.screen.row_index, now_s)
        self._queue.open(self._tail_live, now_s)

    def _show_tail(self, now_s: float, limit_bytes: int) -> None:
        if self._tail_live:
            channels = sorted(self._channels.values(), key=lambda channel: channel.screen.current.changed)
            rows = [row for channel in channels for row in channel.screen.rows[channel.screen.row_index :] if row.width]
            self._queue.change(self._tail_live, self._tail.text(_joined(rows), limit_bytes), now_s)


def _joined(rows: list[Row]) -> str:
    """The rows as lines, without what is blank at the ends of lines and after the last of them."""
    return "".join(row.text().rstrip(" ") + row.end for row in rows).rstrip("\n")
