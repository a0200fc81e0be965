from __future__ import annotations

import pytest

from skyrl_magic.core.display_budget import TAIL_BYTES
from skyrl_magic.core.display_tail import Tail, format_size, left_out_line


def test_nothing_left_out_needs_no_words() -> None:
    tail = Tail("k3f9")
    tail.add("one\n")
    assert tail.text("two", 100) == "one\ntwo"
    assert tail.text("", 100) == "one"


def test_what_a_short_display_hides_is_counted_and_comes_back() -> None:
    tail = Tail("k3f9")
    for number in range(10):
        tail.add(f"{number}\n")
    assert tail.text("", 4) == "… 16 B (8 lines) left out here; %skyrl_logs k3f9 --save FILE writes all of it\n8\n9"
    assert tail.text("", 100) == "\n".join(map(str, range(10)))


def test_a_hidden_line_hides_those_before_it() -> None:
    tail = Tail("k3f9")
    for line in ("short\n", "x" * 50 + "\n", "y\n"):
        tail.add(line)
    assert tail.text("", 10) == left_out_line("k3f9", 57, 2) + "\ny"


def test_newest_lines_stay() -> None:
    tail = Tail("k3f9")
    tail.leave_out(5_000_000, 70_000)
    for _ in range(10_000):
        tail.add("é" * 49 + "\n")
    kept = TAIL_BYTES // 99
    notice, *lines = tail.text("", TAIL_BYTES).split("\n")
    assert lines == ["é" * 49] * kept
    left_out = 5_000_000 + (10_000 - kept) * 99
    assert notice == left_out_line("k3f9", left_out, 80_000 - kept)


def test_uncounted_lines_are_not_guessed() -> None:
    tail = Tail("k3f9")
    tail.leave_out(1000, 10)
    tail.leave_out(1000, None)
    assert tail.text("", 100) == "… 2.0 KB left out here; %skyrl_logs k3f9 --save FILE writes all of it\n"


def test_an_overlong_line_is_still_shown() -> None:
    tail = Tail("k3f9")
    tail.add("x" * 2 * TAIL_BYTES + "\n")
    assert tail.text("", 100) == "x" * 2 * TAIL_BYTES


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (999_949, "999.9 KB"),
        (999_951, "1.0 MB"),
        (48_300_000, "48.3 MB"),
        (7_000_000_000_000, "7,000.0 GB"),
    ],
)
def test_sizes(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text
