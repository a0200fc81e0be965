from __future__ import annotations

import itertools
import json
import re
import tracemalloc
import zlib
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skyrl_magic.agent.redraw import superseded
from skyrl_magic.core.cell_record import CellRecord
from skyrl_magic.core.display_budget import (
    BURST_BYTES,
    BURST_MESSAGES,
    BYTES_PER_S,
    HEAD_BYTES,
    LIVE_TAIL_BYTES,
    MESSAGES_PER_S,
    TAIL_BYTES,
    KernelBudget,
)
from skyrl_magic.core.display_plan import LIVE_ROWS, DisplayPlan
from skyrl_magic.core.display_queue import MAX_WAITING_DISPLAYS, ShowMessage, ShowText, StreamText, UpdateText
from skyrl_magic.core.display_tail import left_out_line
from skyrl_magic.core.protocol import OUTPUTS, STDERR, STDOUT, Gap, KernelMessage, Output, ProtocolError
from tests.unit.core.terminal_model import Cell, Terminal, without_colors


@dataclass
class Run:
    """A run that prints, and a cell that shows it as a caller of the plan would: it wakes up when told to."""

    plan: DisplayPlan = field(default_factory=lambda: DisplayPlan("k3f9", "id"))
    cell: Cell = field(default_factory=Cell)
    now_s: float = 100.0
    wakes: int = 0

    def print(self, text: str | bytes, stream: str = STDOUT) -> None:
        data = text.encode() if isinstance(text, str) else text
        offset = self.plan.intake.offsets[stream]
        self.plan.feed(Output("k3f9", stream, offset, len(data), payload=data), self.now_s)
        self.cell.take(self.plan.messages(self.now_s), self.now_s)

    def skip(self, size_bytes: int, stream: str = STDOUT, *, redrawn: bool = False) -> None:
        offset = self.plan.intake.offsets[stream]
        self.plan.feed(Gap("k3f9", stream, offset, offset + size_bytes, redrawn), self.now_s)

    def wait(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while True:
            due_s = self.plan.due_s(self.now_s)
            if due_s is None or due_s > end_s:
                break
            self.now_s = max(self.now_s, due_s)
            self.cell.take(self.plan.messages(self.now_s), self.now_s)
            self.wakes += 1
            assert self.wakes < 10_000, "the caller is woken without end"
        self.now_s = end_s

    def end(self) -> list[tuple[str, str]]:
        self.cell.take(self.plan.finish(self.now_s), self.now_s)
        return self.shown()

    def shown(self) -> list[tuple[str, str]]:
        """The cell's outputs, with ``live`` for a display's id."""
        known = {STDOUT, STDERR}
        return [(output.kind if output.kind in known else "live", output.text) for output in self.cell.outputs]


def test_plain_lines_are_a_stream() -> None:
    run = Run()
    run.print("one\n")
    assert run.shown() == [(STDOUT, "one\n")], "the first line is shown at once"
    run.print("two\n")
    assert run.shown() == [(STDOUT, "one\n")]
    run.wait(0.2)
    assert run.shown() == [(STDOUT, "one\ntwo\n")]
    assert run.plan.due_s(run.now_s) is None
    assert run.end() == [(STDOUT, "one\ntwo\n")]


def test_streams_stay_apart_and_in_order() -> None:
    run = Run()
    for number in range(4):
        run.print(f"out {number}\n")
        run.print(f"err {number}\n", STDERR)
    assert run.end() == [(stream, f"{stream[3:]} {n}\n") for n in range(4) for stream in (STDOUT, STDERR)]


@pytest.mark.parametrize("before", ["", "a line\n"])
def test_a_partial_line_is_visible_in_time(before: str) -> None:
    run = Run()
    run.print(f"{before}Loading… ")
    run.wait(0.29)
    assert run.shown() == [(STDOUT, f"{before}Loading… ")]
    run.wait(1)
    run.print("done\n")
    assert run.end() == [(STDOUT, f"{before}Loading… done\n")]


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 0.5), st.sampled_from([STDOUT, STDERR])), min_size=1, max_size=20))
def test_growing_partial_lines_are_visible_in_time(steps: list[tuple[float, str]]) -> None:
    run = Run()
    for pause_s, stream in steps:
        run.wait(pause_s)
        run.print(".", stream)
    printed_s = run.now_s
    run.wait(0.5)
    assert sum(len(text) for _, text in run.shown()) == len(steps)
    # Two streams may wait for a turn each.
    assert run.cell.messages[-1][0] <= printed_s + 0.42


def test_a_bar_is_one_display_with_its_last_state() -> None:
    run = Run()
    for number in range(1000):
        run.print(f"\r{number / 10:.0f}%|{'#' * (number // 50):20}|", STDERR)
        run.wait(0.01)
    run.print(f"\r100%|{'#' * 20}|\n", STDERR)
    run.print("next\n", STDERR)
    assert run.end() == [("live", f"100%|{'#' * 20}|"), (STDERR, "next\n")]
    assert len(run.cell.messages) <= 10 * MESSAGES_PER_S + BURST_MESSAGES


def test_a_bar_that_was_quick_is_stream_text() -> None:
    run = Run()
    run.print("first\n")
    run.print("\r  0%\r 50%\r100%\n")
    assert run.end() == [(STDOUT, "first\n100%\n")]


def test_a_bar_on_stderr_stays_whole_beside_lines_on_stdout() -> None:
    run = Run()
    for number in range(50):
        run.print(f"\r{number} of 50", STDERR)
        run.wait(0.1)
        run.print(f"line {number}\n")
        run.wait(0.1)
    run.print("\r50 of 50\n", STDERR)
    lines = "".join(f"line {number}\n" for number in range(50))
    assert run.end() == [("live", "50 of 50"), (STDOUT, lines)]


def test_the_next_bar_comes_after_the_lines_between() -> None:
    run = Run()
    for bar in range(2):
        for number in range(3):
            run.print(f"\rbar {bar}: {number}", STDERR)
            run.wait(0.3)
            run.print(f"line {bar}{number}\n")
            run.wait(0.3)
        run.print("\n", STDERR)
    assert run.end() == [
        ("live", "bar 0: 2"),
        (STDOUT, "line 00\nline 01\nline 02\n"),
        ("live", "bar 1: 2"),
        (STDOUT, "line 10\nline 11\nline 12\n"),
    ]


def test_log_lines_through_a_bar_keep_their_order() -> None:
    run = Run()
    for number in range(100):
        run.print(f"\r\x1b[Kline {number}\n\r{number}%")
        run.wait(0.1)
    run.print("\n")
    outputs = run.end()
    lines = [line for _, text in outputs for line in text.splitlines()]
    assert lines == [*(f"line {number}" for number in range(100)), "99%"]
    assert all(len(text.split("\n")) <= LIVE_ROWS + 1 for _, text in outputs)
    assert len(outputs) <= 6


def test_lines_that_are_drawn_anew_before_they_were_sent_are_shown_once() -> None:
    run = Run()
    run.print("first\n")
    run.print("a 0\nb 0\n")
    run.print("\x1b[2A\ra 1\nb 1\ndone\n")
    assert run.end() == [(STDOUT, "first\na 1\nb 1\ndone\n")]


def test_a_block_that_is_drawn_again_and_again_is_one_display_below_its_first_state() -> None:
    run = Run()
    run.print("a 0\nb 0\n")
    for number in range(1, 30):
        run.wait(0.3)
        run.print(f"\x1b[2A\ra {number}\nb {number}\n")
    run.wait(0.3)
    run.print("done\n")
    assert run.end() == [(STDOUT, "a 0\nb 0\n"), ("live", "a 29\nb 29"), (STDOUT, "done\n")]


def test_lines_that_appear_above_a_block_belong_to_its_display() -> None:
    run = Run()
    run.print("a 0\nb 0")
    for number in range(5):
        run.wait(0.3)
        run.print(f"\r\x1b[2K\x1b[1A\x1b[2Klog {number}\na {number}\nb {number}")
    assert run.end()[1:] == [("live", "log 0\nlog 1\nlog 2\nlog 3\nlog 4\na 4\nb 4")]


def test_the_cursor_does_not_come_to_lines_above_a_display() -> None:
    run = Run()
    run.print("a\n")
    show(run, display("picture"))
    run.print("b\n\x1b[2Ac\n")
    run.end()
    assert told(run) == ["a\n", "<picture>", "c\n"]


def test_nested_bars_are_redrawn_together() -> None:
    run = Run()
    for outer in range(3):
        run.print(f"\router {outer}")
        for inner in range(3):
            run.print("\n")
            run.wait(0.2)
            run.print(f"\rinner {inner}\x1b[A")
            run.wait(0.2)
    run.print("\n\nend\n")
    assert run.end() == [("live", "outer 2\ninner 2"), (STDOUT, "end\n")]


def test_an_erased_bar_leaves_its_place_to_the_next() -> None:
    run = Run()
    for bar in range(3):
        run.print(f"\rbar {bar}")
        run.wait(0.3)
        run.print("\r     \r")
        run.wait(0.3)
    assert run.shown() == [("live", "")]
    run.print("end\n")
    assert run.end() == [("live", "end")]


@pytest.mark.parametrize(("first", "then"), [("step 1", "\rstep 2"), ("step 1", "\b2"), ("\x1b[31mstep 1", "\rstep 2")])
def test_a_shown_partial_line_is_redrawn_in_place(first: str, then: str) -> None:
    run = Run()
    run.print(f"a\n{first}")
    run.wait(1)
    run.print(then)
    run.wait(1)
    run.print("\nb\n")
    run.end()
    assert run.cell.in_jupyterlab(STDOUT) == run.cell.in_nbconvert(STDOUT) == ["a", "step 2", "b", ""]
    assert len(run.cell.outputs) == 1


def test_a_shorter_line_covers_a_longer_one() -> None:
    run = Run()
    run.print("a long line")
    run.wait(1)
    run.print("\r\x1b[Kshort\n")
    run.end()
    assert run.cell.in_jupyterlab(STDOUT) == run.cell.in_nbconvert(STDOUT) == ["short", ""]


PIECES = st.sampled_from(["ab", "c", "defg", " ", "\n", "\r", "\b", "\x1b[K", "\x1b[2K", "\x1b[31m", "\x1b[0m", "é"])


@settings(deadline=None)
@example([("ab", 0.3), ("\x1b[2K", 0.3), ("ab", 0.3)])
@given(st.lists(st.tuples(PIECES, st.sampled_from([0.0, 0.05, 0.15, 0.3])), max_size=30))
def test_one_stream_ends_as_in_a_terminal(steps: list[tuple[str, float]]) -> None:
    run = Run()
    for piece, pause_s in steps:
        run.print(piece)
        run.wait(pause_s)
    run.end()
    expected = [line for line in Terminal("".join(piece for piece, _ in steps)).plain() if line]
    assert [line for line in run.cell.in_jupyterlab(STDOUT) if line] == expected
    assert [line for line in run.cell.in_nbconvert(STDOUT) if line] == expected


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=8), st.sampled_from([0.0, 0.1, 0.3]))))
def test_any_bytes_on_both_streams(steps: list[tuple[str, bytes, float]]) -> None:
    run = Run()
    for stream, data, pause_s in steps:
        run.print(data, stream)
        run.wait(pause_s)
    run.end()
    for _, text in run.shown():
        controls = set(re.sub(r"\x1b\[[0-9;]*m", "", text)) & set(map(chr, range(32)))
        assert controls <= {"\t", "\n", "\r"}


def run_in_own_cell() -> Run:
    """A run whose cell can be filled again."""
    record = CellRecord()
    return Run(DisplayPlan("k3f9", "id", record=record), Cell(record))


#: Plain lines, a block of so many lines that is drawn so often, and what stands behind each line and each frame.
BLOCK = st.tuples(
    st.lists(st.sampled_from(["one\n", "two three\n", "\x1b[31mred\x1b[0m\n"]), max_size=3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from(["", "\x1b[K"]),
    st.sampled_from([0.0, 0.05, 0.3]),
)


def block_pieces(blocks: list[tuple[list[str], int, int, str, float]]) -> list[tuple[str, float]]:
    pieces = []
    for lines, rows, frames, erased, pause_s in blocks:
        pieces += [(line, pause_s) for line in lines]
        for frame in range(frames):
            rise = f"\x1b[{rows}A" if frame else ""
            text = "".join(f"\r{erased}{row}: {frame * 7 % 10}\n" for row in range(rows))
            pieces.append((rise + text, pause_s))
        pieces.append(("end\n", pause_s))
    return pieces


@settings(deadline=None)
@example([(["one\n"], 2, 2, "", 0.3)])
@given(st.lists(BLOCK, max_size=4))
def test_blocks_end_as_in_a_terminal_in_a_cell_of_their_own(
    blocks: list[tuple[list[str], int, int, str, float]],
) -> None:
    run = run_in_own_cell()
    pieces = block_pieces(blocks)
    for piece, pause_s in pieces:
        run.print(piece)
        run.wait(pause_s)
    run.end()
    assert run.cell.in_jupyterlab(STDOUT) == Terminal("".join(piece for piece, _ in pieces)).plain()
    assert run.cell.filled <= len(blocks), "once for each block"


def test_lines_that_were_sent_are_drawn_anew_in_their_place() -> None:
    run = run_in_own_cell()
    run.print("first\na 0\nb 0\nunder")
    run.wait(1)
    run.print("a warning\n", STDERR)
    run.wait(1)
    run.print("\x1b[2A\ra 1\nb 1\n\x1b[Kend\n")
    assert run.end() == [(STDOUT, "first\n"), (STDERR, "a warning\n"), ("live", "a 1\nb 1\nend")]
    assert run.cell.filled == 1


def test_lines_above_a_bar_that_is_shown_can_be_drawn_anew() -> None:
    run = run_in_own_cell()
    run.print("a 0\n")
    run.wait(1)
    for number in range(3):
        run.print(f"\rbar {number}")
        run.wait(0.3)
    run.print("\x1b[A\ra 1")
    run.wait(0.3)
    run.print("\n\n")
    assert run.end() == [("live", "a 1\nbar 2")]


@pytest.mark.parametrize("why", ["not its own cell", "too much is shown"])
def test_a_cell_that_cannot_be_filled_again_keeps_the_first_state(why: str) -> None:
    run = Run() if why == "not its own cell" else run_in_own_cell()
    before = "x" * BURST_BYTES + "\n" if why == "too much is shown" else ""
    run.print(before + "a 0\nb 0\n")
    run.wait(1)
    run.print("\x1b[2A\ra 1\nb 1\ndone\n")
    assert run.end() == [(STDOUT, before + "a 0\nb 0\n"), ("live", "a 1\nb 1\ndone")]


def test_filling_a_cell_again_costs_its_budget() -> None:
    run = run_in_own_cell()
    filler = "x" * 999 + "\n"
    run.print(filler * 90)
    run.wait(5)
    begun_s = run.now_s
    for number in range(20):
        run.print(f"a {number}\n")
        run.wait(0.3)
        run.print(f"\x1b[A\rb {number}\n")
        run.wait(0.3)
        run.print("end\n")
    run.end()
    assert run.cell.filled > 3
    assert run.cell.filled * 90_000 <= BURST_BYTES + BYTES_PER_S * (run.now_s - begun_s) + 90_000


LINES = st.text("abc\n", max_size=12)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), LINES, st.sampled_from([0.0, 0.02, 0.2]))))
def test_text_without_controls_is_shown_as_it_is(steps: list[tuple[str, str, float]]) -> None:
    run = Run()
    for stream, text, pause_s in steps:
        if text:
            run.print(text, stream)
        run.wait(pause_s)
    run.end()
    for stream in (STDOUT, STDERR):
        shown = "".join(text for kind, text in run.shown() if kind == stream)
        assert shown == "".join(text for name, text, _ in steps if name == stream)


PRINTS = {"line": "line\n", "bar": "\rbar", "long": "x" * 5000 + "\n", "word": "word ", "many": ("y" * 79 + "\n") * 100}
STEPS = st.tuples(st.sampled_from([STDOUT, STDERR]), st.sampled_from([*PRINTS]), st.sampled_from([0.0, 0.01, 0.3]))


@settings(max_examples=20, deadline=None)
@given(st.lists(STEPS, min_size=20, max_size=100))
def test_the_budget_is_kept(steps: list[tuple[str, str, float]]) -> None:
    run = Run()
    for stream, text, pause_s in steps:
        run.print(PRINTS[text], stream)
        run.wait(pause_s)
    times = [now_s for now_s, _ in run.cell.messages]
    sizes = [len(action.text.encode()) for _, action in run.cell.messages]
    before = [0, *itertools.accumulate(sizes)]
    for first, last in itertools.combinations_with_replacement(range(len(times)), 2):
        passed_s = times[last] - times[first]
        assert last - first + 1 <= BURST_MESSAGES + MESSAGES_PER_S * passed_s + 0.01
        # A line is never cut in two, so each write may be over by one line.
        assert before[last + 1] - before[first] <= BURST_BYTES + BYTES_PER_S * passed_s + 2 * max(sizes)


def test_a_flood_ends_with_its_newest_lines() -> None:
    run = Run()
    lines = [f"line {number}\n" for number in range(200_000)]
    for at in range(0, len(lines), 1000):
        run.print("".join(lines[at : at + 1000]))
        run.wait(0.01)
    (_, head), (kind, tail) = run.end()
    assert kind == "live"
    assert HEAD_BYTES <= len(head) <= HEAD_BYTES + 20
    notice, _, last = tail.partition("\n")
    assert last.endswith("line 199999")
    assert TAIL_BYTES - 20 <= len(last) <= TAIL_BYTES
    shown = head.count("\n") + last.count("\n") + 1
    left_out_bytes = len("".join(lines)) - len(head) - len(last) - 1
    assert notice == left_out_line("k3f9", left_out_bytes, 200_000 - shown)
    assert "".join(lines).startswith(head)
    assert "".join(lines).endswith(f"\n{last}\n")


def test_a_redrawn_line_at_the_end_of_a_flood_keeps_its_last_state() -> None:
    run = Run()
    run.print("head\n")
    run.skip(50_000_000)
    run.print("".join(f"{number}\r" for number in range(200_000)) + "\nend\n")
    (_, head), (_, tail) = run.end()
    assert head == "head\n"
    assert tail.splitlines()[1:] == ["199999", "end"]


def test_the_tail_of_a_running_flood_is_small_and_lively() -> None:
    run = Run()
    run.print("head\n")
    run.skip(50_000_000)
    for number in range(100):
        run.print("x" * 99 + "\n" + f"newest {number}\nunfinished")
        run.wait(0.2)
        run.print("\n")
        (_, tail) = run.shown()[-1]
        assert tail.endswith(f"newest {number}\nunfinished")
        assert len(tail) <= LIVE_TAIL_BYTES + 200
    assert len([kind for kind, _ in run.shown() if kind == "live"]) == 1


def test_floods_in_a_row_keep_within_what_the_server_takes_and_do_not_wait() -> None:
    kernel = KernelBudget()
    lines = [f"{number}\n" for number in range(200_000)]
    now_s, sent = 100.0, []
    for cell in range(12):
        run = Run(DisplayPlan("k3f9", f"id{cell}", kernel), now_s=now_s)
        for at in range(0, len(lines), 20_000):
            run.print("".join(lines[at : at + 20_000]))
            run.wait(0.02)
        run.end()
        assert run.plan.rest_s(run.now_s) is None
        shown = "".join(text for _, text in run.shown())
        assert shown.endswith("199999")
        assert cell or len(shown) >= HEAD_BYTES
        (left_out,) = re.findall(r"\(([0-9,]+) lines\) left out", shown)
        # The line in which the tail begins is counted with both of its parts.
        assert shown.count("\n") + int(left_out.replace(",", "")) - len(lines) in (0, 1)
        now_s = run.now_s
        sent += [(at_s, len(json.dumps(action.text)) + 500) for at_s, action in run.cell.messages]
    for first, (begin_s, _) in enumerate(sent):
        window = [size for at_s, size in sent[first:] if at_s < begin_s + 3]
        assert sum(window) < 2_950_000
        assert len(window) < 2_500


@pytest.mark.parametrize("size", [100, 40_000])
def test_floods_of_displays_in_a_row_keep_within_what_the_server_takes(size: int) -> None:
    kernel = KernelBudget()
    now_s, sent = 100.0, []
    for cell in range(6):
        run = Run(DisplayPlan("k3f9", f"id{cell}", kernel), now_s=now_s)
        show(run, *(display(f"{number} " + "x" * size) for number in range(1000)))
        run.end()
        while (rest_s := run.plan.rest_s(run.now_s)) is not None:
            run.now_s += rest_s
            run.end()
        messages = [(at_s, a.message) for at_s, a in run.cell.messages if isinstance(a, ShowMessage)]
        assert len(messages) >= MAX_WAITING_DISPLAYS
        now_s = run.now_s
        sent += [(at_s, len(json.dumps(message.content)) + 500) for at_s, message in messages]
    for first, (begin_s, _) in enumerate(sent):
        window = [size for at_s, size in sent[first:] if at_s < begin_s + 3]
        assert sum(window) < 2_950_000
        assert len(window) < 2_500


def test_one_flood_alone_ends_at_once() -> None:
    run = Run()
    run.print("".join(f"{number}\n" for number in range(500_000)))
    run.end()
    assert run.plan.rest_s(run.now_s) is None


def test_a_gap_is_named_once_with_its_size() -> None:
    run = Run()
    run.print("begin\ncut off he")
    run.skip(48_300_000)
    run.print("end\n")
    assert run.end() == [
        (STDOUT, "begin\ncut off he\n"),
        ("live", "… 48.3 MB left out here; %skyrl_logs k3f9 --save FILE writes all of it\nend"),
    ]
    assert run.plan.intake.offsets == {STDOUT: 48_300_020, STDERR: 0, OUTPUTS: 0}


def test_a_bar_goes_on_in_the_tail() -> None:
    run = Run()
    run.print("\r 10%", STDERR)
    run.wait(1)
    run.skip(1000)
    run.print("newest\n")
    run.print("\r 20%", STDERR)
    run.wait(1)
    notice = "… 1.0 KB left out here; %skyrl_logs k3f9 --save FILE writes all of it"
    assert run.shown() == [("live", ""), ("live", f"{notice}\nnewest\n 20%")]


@pytest.mark.parametrize("states", [2, 700, 20_000])
def test_a_bar_ends_in_place_whatever_it_redraws(states: int) -> None:
    run = Run()
    run.print("begin\n")
    for number in range(states):
        run.print(f"\r{number:05} " + "#" * 200, STDERR)
        run.wait(0.001)
    run.print("\ndone\n", STDERR)
    outputs = run.end()
    assert [text for _, text in outputs] == ["begin\n", f"{states - 1:05} " + "#" * 200, "done\n"] or outputs == [
        (STDOUT, "begin\n"),
        (STDERR, f"{states - 1:05} " + "#" * 200 + "\ndone\n"),
    ]


def test_what_was_drawn_over_is_not_missed() -> None:
    run = Run()
    run.print("\r 10%")
    run.wait(1)
    run.skip(5_000_000, redrawn=True)
    run.print("\r 99%\nnext\n")
    assert run.end() == [("live", " 99%"), (STDOUT, "next\n")]
    assert run.plan.intake.offsets[STDOUT] == 5_000_016


@settings(deadline=None)
@given(st.lists(st.tuples(PIECES, st.sampled_from([0.0, 0.3])), max_size=30), st.integers(1, 40))
def test_without_what_was_drawn_over_it_ends_as_in_a_terminal(steps: list[tuple[str, float]], least: int) -> None:
    run = Run()
    for piece, pause_s in steps:
        data = (piece * least).encode()
        at = 0
        for start, end in superseded(data, None):
            run.print(data[at:start])
            run.skip(end - start, redrawn=True)
            at = end
        run.print(data[at:])
        run.wait(pause_s)
    outputs = run.end()
    assert not [text for _, text in outputs if "left out" in text]
    expected = [line for line in Terminal("".join(piece * least for piece, _ in steps)).plain() if line]
    assert [line for line in run.cell.in_jupyterlab(STDOUT) if line] == expected


@pytest.mark.parametrize("begin", ["\r 10%", "\x1b[Ktop\n\rbar 10%\x1b[A"])
def test_a_gap_leaves_no_old_state_of_a_bar(begin: str) -> None:
    run = Run()
    run.print(begin)
    run.wait(1)
    run.skip(1000)
    run.print("\r 20%")
    run.wait(1)
    run.print("\r 30%\n")
    assert "10%" not in str(run.end())
    assert run.shown()[-1][1].endswith("here; %skyrl_logs k3f9 --save FILE writes all of it\n 30%")


def test_a_line_that_is_drawn_anew_uses_the_head_once() -> None:
    run = Run()
    run.print("x" * 1000)
    run.wait(1)
    for number in range(1000):
        run.print(f"\r{number:4}")
        run.wait(0.21)
    run.print("\nend\n")
    run.end()
    assert run.cell.in_jupyterlab(STDOUT) == [" 999" + "x" * 996, "end", ""]


def test_colors_of_a_cut_line_do_not_leak() -> None:
    run = Run()
    run.print("\x1b[31mred\nstill red")
    run.skip(10)
    run.print("plain\n")
    (_, head), (_, tail) = run.end()
    assert head == "\x1b[31mred\x1b[0m\n\x1b[31mstill red\x1b[0m\n"
    assert tail.endswith("\nplain")


def test_short_scripts_keep_the_order_of_their_streams() -> None:
    run = Run()
    for number in range(20):
        run.print(f"{number}\n", STDERR if number % 2 else STDOUT)
    assert [text for _, text in run.end()] == [f"{number}\n" for number in range(20)]


def test_nothing_is_shown_twice_after_a_new_channel() -> None:
    run = Run()
    run.print("one\ntwo\n")
    for offset, text in ((0, "one\n"), (4, "two\nthree\n"), (4, "two\nthr"), (14, "four\n")):
        run.plan.feed(Output("k3f9", STDOUT, offset, len(text), payload=text.encode()), run.now_s)
    run.plan.feed(Gap("k3f9", STDOUT, 0, 10), run.now_s)
    assert run.end() == [(STDOUT, "one\ntwo\nthree\nfour\n")]


def test_missing_bytes_count_as_a_gap() -> None:
    run = Run()
    run.plan.feed(Output("k3f9", STDOUT, 1000, 4, payload=b"end\n"), run.now_s)
    assert run.end() == [("live", "… 1.0 KB left out here; %skyrl_logs k3f9 --save FILE writes all of it\nend")]


def test_compressed_payloads() -> None:
    run = Run()
    data = "é\n".encode() * 1000
    run.plan.feed(Output("k3f9", STDOUT, 0, len(data), compressed=True, payload=zlib.compress(data)), run.now_s)
    assert run.end() == [(STDOUT, "é\n" * 1000)]


@pytest.mark.parametrize(
    "frame",
    [
        Output("k3f9", STDOUT, 0, 10, compressed=True, payload=b"no zlib"),
        Output("k3f9", STDOUT, 0, 10, compressed=True, payload=zlib.compress(b"x" * 11)),
        Output("k3f9", STDOUT, 0, 10, payload=b"short"),
        Output("k3f9", "stdin", 0, 1, payload=b"x"),
        Gap("k3f9", "stdin", 0, 1),
    ],
)
def test_damaged_frames_are_refused(frame: Output | Gap) -> None:
    with pytest.raises(ProtocolError):
        DisplayPlan("k3f9", "id").feed(frame, 0.0)


@pytest.mark.parametrize(
    ("block", "frame_bytes", "frames"),
    [
        (b"a line of a log, as programs print them\n", 10_000_000, 50),
        (b"no newline at all ", 4_000_000, 10),
        (b"\n", 50_000, 4),
        (b"\r 10%", 200_000, 4),
        (b"\x1b]", 200_000, 4),
        (b"\xff\x00", 200_000, 4),
    ],
    ids=["lines", "one line", "empty lines", "a bar", "open strings", "binary"],
)
def test_memory_stays_flat(block: bytes, frame_bytes: int, frames: int) -> None:
    run = Run()
    data = block * (frame_bytes // len(block))
    run.print(data[:20_000])
    tracemalloc.start()
    try:
        for _ in range(frames):
            run.print(data)
            run.wait(0.02)
        run.end()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # What is kept, and a copy of the frame.
    assert peak_bytes < 8_000_000 + frame_bytes
    assert sum(len(without_colors(text)) for _, text in run.shown()) < HEAD_BYTES + TAIL_BYTES + 5_000


# --- Ray's lines about itself -----------------------------------------------------------------------------------------

RAY_LINE = "2026-11-25 01:30:29,719\tINFO worker.py:1841 -- Connecting to existing Ray cluster at address: x:6379...\n"
RAYLET_LINE = "(raylet) [2026-01-25 10:00:01,123 E 17 42] (raylet) node_manager.cc:116: it is {} too late\n"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_rays_own_lines_are_folded_in_any_chunking(size: int) -> None:
    run = Run()
    text = "".join([RAY_LINE, "mine\n", *(RAYLET_LINE.format(n) for n in range(300)), "last"])
    for at in range(0, len(text), size):
        run.print(text[at : at + size], STDERR)
    run.wait(1)
    shown = "\n".join(text.removesuffix("\n") for _, text in run.end())
    assert shown.splitlines() == [
        "Ray: joining the cluster at x:6379",
        "mine",
        RAYLET_LINE.format(0).rstrip(),
        "last",
        "… 299 more such lines of Ray's own (node_manager.cc) are in the run's log",
    ]


def test_rays_own_lines_are_folded_in_the_tail() -> None:
    run = Run()
    run.print("x" * 80 + "\n", STDERR)
    run.skip(1_000_000, STDERR)
    for number in range(50):
        run.print(RAYLET_LINE.format(number), STDERR)
    run.print("last\n", STDERR)
    shown = "".join(text for _, text in run.end())
    assert shown.count("too late") == 1
    assert shown.rstrip().endswith("… 49 more such lines of Ray's own (node_manager.cc) are in the run's log")


# --- messages of Python cells -----------------------------------------------------------------------------------------


def display(text: str, display_id: str = "", kind: str = "display_data") -> KernelMessage:
    transient = {"transient": {"display_id": display_id}} if display_id else {}
    return KernelMessage("k3f9", msg_type=kind, content={"data": {"text/plain": text}, **transient})


def state(**values: object) -> KernelMessage:
    data = {"method": "update", "state": values}
    return KernelMessage("k3f9", msg_type="comm_msg", content={"comm_id": "w", "data": data})


CLEAR = KernelMessage("k3f9", msg_type="clear_output", content={"wait": True})


def show(run: Run, *messages: KernelMessage) -> None:
    for message in messages:
        run.plan.show(message, run.now_s)
        run.cell.take(run.plan.messages(run.now_s), run.now_s)


def told(run: Run) -> list[str]:
    """All that the cell was sent, joined where it is text: ``text``, ``<display>``, ``{state}``, ``(clear)``."""
    found: list[str] = []
    joined = False
    for _, action in run.cell.messages:
        if isinstance(action, StreamText) and joined:
            found[-1] += action.text
        elif isinstance(action, ShowMessage):
            data = action.message.content.get("data", {})
            text = data.get("text/plain")
            found.append("(clear)" if not data else str(data["state"]) if text is None else f"<{text}>")
        else:
            found.append(action.text)
        joined = isinstance(action, StreamText)
    return found


def test_displays_stand_where_they_were_shown_among_the_text() -> None:
    run = Run()
    run.print("one\n")
    show(run, display("a"))
    run.print("two\nthr")
    show(run, display("b"))
    run.print("ee\n")
    run.end()
    assert told(run) == ["one\n", "<a>", "two\nthr", "<b>", "ee\n"]


CELL_STEP = st.one_of(
    st.tuples(st.just("print"), st.sampled_from(["line\n", "part", "two\nlines\n", "雪\n"])),
    st.tuples(st.just("display"), st.just("")),
    st.tuples(st.just("wait"), st.sampled_from(["0.01", "0.15", "1"])),
)


@settings(deadline=None)
@given(st.lists(CELL_STEP, max_size=30))
def test_text_and_displays_keep_their_order_at_any_pace(steps: list[tuple[str, str]]) -> None:
    run, expected = Run(), ""
    for number, (kind, value) in enumerate(steps):
        if kind == "print":
            run.print(value)
            expected += value
        elif kind == "display":
            show(run, display(str(number)))
            expected += f"<{number}>"
        else:
            run.wait(float(value))
    run.end()
    assert "".join(told(run)) == expected


def test_a_state_of_a_widget_cuts_no_line() -> None:
    run = Run()
    run.print("Load")
    show(run, state(value=1))
    run.print("ing\n")
    run.end()
    assert sorted(told(run)) == ["Loading\n", "{'value': 1}"]


def test_what_a_widget_takes_is_cut_where_it_begins_to() -> None:
    run = Run()
    run.print("outside")
    show(run, state(msg_id="m"))
    run.print("inside")
    show(run, state(msg_id=""))
    run.print("outside")
    run.end()
    assert told(run) == ["outside", "{'msg_id': 'm'}", "inside", "{'msg_id': ''}", "outside"]


def test_a_bar_before_a_display_keeps_its_place() -> None:
    run = Run()
    for number in range(5):
        run.print(f"\r{number}/4", STDERR)
        run.wait(0.3)
    show(run, display("a"))
    run.print("after\n")
    run.end()
    kinds = [type(action) for _, action in run.cell.messages]
    assert kinds.index(ShowMessage) > kinds.index(ShowText)
    assert run.shown()[0] == ("live", "4/4")
    assert run.shown()[-1] == (STDOUT, "after\n")


@pytest.mark.parametrize("pace_s", [0.0, 0.001, 0.01, 0.5])
def test_a_display_that_is_updated_quickly_ends_in_its_last_state(pace_s: float) -> None:
    run = Run()
    show(run, display("0", "d"))
    for number in range(1, 500):
        show(run, display(str(number), "d", "update_display_data"))
        run.wait(pace_s)
    run.end()
    sent = told(run)
    assert (sent[0], sent[-1]) == ("<0>", "<499>")
    numbers = [int(text[1:-1]) for text in sent]
    assert numbers == sorted(set(numbers))
    assert run.cell.messages[1][1] != ShowMessage(display("1", "d")), "it is shown once"


@pytest.mark.parametrize("pace_s", [0.0, 0.001, 0.1])
def test_a_flood_of_displays_shows_the_newest_and_says_how_many_it_left_out(pace_s: float) -> None:
    run, count = Run(), 3000
    for number in range(count):
        show(run, display(str(number)))
        run.wait(pace_s)
    run.end()
    shown = [int(text[1:-1]) for text in told(run) if text.startswith("<")]
    assert shown == sorted(set(shown)), "in order, and none twice"
    assert shown[-1] == count - 1
    left_out = [text for _, text in run.shown()]
    if len(shown) == count:
        assert not left_out
    else:
        assert shown[-MAX_WAITING_DISPLAYS:] == list(range(count - MAX_WAITING_DISPLAYS, count))
        assert left_out == [f"… {count - len(shown):,} displays left out here; the log of run k3f9 has them"]


def test_text_between_displays_that_are_left_out_is_not_lost() -> None:
    run = Run()
    for number in range(1000):
        run.print(f"{number}\n")
        show(run, display(str(number)))
    run.end()
    while run.plan.rest_s(run.now_s) is not None:
        run.now_s += 1
        run.cell.take(run.plan.finish(run.now_s), run.now_s)
    text = "".join(action.text for _, action in run.cell.messages if isinstance(action, StreamText))
    assert text == "".join(f"{number}\n" for number in range(1000))
    shown = [part for part in told(run) if part.startswith("<")]
    assert f"… {1000 - len(shown):,} displays left out" in str(run.shown())


def test_clear_output_takes_back_what_was_not_shown_yet() -> None:
    run = Run()
    run.print("shown\n")
    run.print("never shown\npart")
    show(run, CLEAR)
    run.print("after\n")
    run.end()
    assert told(run) == ["shown\n", "(clear)", "after\n"]


def test_a_clear_that_waits_takes_nothing_back_at_the_end() -> None:
    run = Run()
    run.print("half")
    show(run, CLEAR)
    run.end()
    assert told(run) == ["half"]


def test_a_clear_waits_for_an_output_and_not_for_a_widgets_state() -> None:
    run = Run()
    run.print("half")
    show(run, CLEAR, state(value=1), display("x", "mine", "update_display_data"))
    run.wait(0.3)
    assert "half" in told(run)
    assert "(clear)" not in told(run)
    show(run, display("new"))
    run.end()
    assert told(run)[-2:] == ["(clear)", "<new>"]


def test_a_clear_is_passed_on_where_the_next_output_is_shown_by_another() -> None:
    run = Run()
    run.print("half")
    show(run, CLEAR)
    run.plan.pass_clear_on(run.now_s)
    run.end()
    assert told(run) == ["half", "(clear)"]


def test_a_bar_without_a_newline_is_shown_once_however_often_the_rest_is_asked_for() -> None:
    run = Run()
    run.print("\r1/2\r2/2")
    run.cell.take(run.plan.finish(run.now_s), run.now_s)
    run.end()
    assert told(run) == ["2/2"]


def test_a_bar_that_was_cleared_is_not_updated_any_more() -> None:
    run = Run()
    for number in range(4):
        run.print(f"\r{number}/9", STDERR)
        run.wait(0.3)
    show(run, CLEAR)
    cleared = len(run.cell.messages)
    for number in range(4, 10):
        run.print(f"\r{number}/9", STDERR)
        run.wait(0.3)
    run.end()
    before = {action.display_id for _, action in run.cell.messages[:cleared] if isinstance(action, ShowText)}
    after = [action for _, action in run.cell.messages[cleared:] if isinstance(action, UpdateText)]
    assert before
    assert not before & {action.display_id for action in after}
    assert run.shown()[-1][1].strip() == "9/9"


def test_an_animation_of_cleared_displays_leaves_nothing_out() -> None:
    run = Run()
    for number in range(2000):
        show(run, CLEAR, display(str(number)))
        run.wait(0.001)
    run.end()
    assert told(run)[-2:] == ["(clear)", "<1999>"]
    assert not run.shown(), "what was cleared is missed by nobody"
    assert len(run.cell.messages) < 1000


def test_displays_among_the_tail_come_in_order() -> None:
    run = Run()
    run.print("head\n")
    run.skip(10)
    run.print("tail 1\n")
    show(run, display("a"))
    run.print("tail 2\n")
    show(run, display("b"))
    run.end()
    assert [text for text in told(run) if text.startswith("<")] == ["<a>", "<b>"]
    assert run.shown()[-1][1].endswith("tail 1\ntail 2")
