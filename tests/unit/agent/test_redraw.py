"""What was drawn over is found, and nothing else: a terminal shows the same without it."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skyrl_magic.agent.redraw import Extent, superseded
from tests.unit.core.terminal_model import Terminal

BLANK = (" ", "")
#: What progress bars are made of, and what they are not.
TEXT_BITS = "ab|c|defg|é雪|雪|a🙂b|e\u0301|\u0301| "
BITS = "\n|\r|\b|\b\b\b|\x1b[K|\x1b[2K|\x1b[A|\x1b[2A|\x1b[31m|\x1b[0m|\x1b[32m|\x1b[C|\x1b[2D|\x1b[3G"
PHRASES = "\x1b7|\x1b8|\x1b[s|\x1b[u|\x1b[?25l|\x00|\n\rbar\x1b[A|\r50%|\r\x1b[32mok\x1b[0m"
TOKENS = st.sampled_from(f"{TEXT_BITS}|{BITS}|{PHRASES}".split("|"))
TEXTS = st.lists(TOKENS, max_size=12).map("".join)


def without(data: bytes, ranges: list[tuple[int, int]]) -> bytes:
    kept, at = b"", 0
    for start, end in ranges:
        assert at <= start < end <= len(data)
        kept, at = kept + data[at:start], end
    return kept + data[at:]


def screen(text: str) -> list[list[tuple[str, str]]]:
    """What is seen: blanks at the end of a line, which the cursor leaves behind, are not."""
    lines = [list(line) for line in Terminal(text).lines]
    for line in lines:
        while line and line[-1] == BLANK:
            line.pop()
    return lines


def column_after(text: str) -> int | None:
    extent = Extent(0)
    extent.advance(text.encode())
    return extent.column


@settings(max_examples=1500, deadline=None)
@given(TEXTS, TEXTS, TEXTS, st.booleans(), st.sampled_from([1, 8]))
@example("", "\n\r1\x1b[A\n\r2\x1b[A\n\r3\x1b[A", "x", True, 1)
@example("", "\r\x1b[31mab\r\x1b[0mcd\rab", "x", True, 1)
@example("ab", "\b\b12\b\b34\b\b56", "", True, 1)
@example("", "\n\x1b[A\n\x1b[A", "ab", False, 1)
@example("", "ab\x1b[2Kab\x1b[2D\x1b[K", "", True, 1)
@example("", "ab\b\u0301\rxy", "", True, 1)
@example("", "雪\rab\r雪", "\b\bx", True, 1)
@example("雪雪\b\b\b", "雪\b\bxy", "", True, 1)
@example("0/9999", "\r\x1b[32m1\x1b[0m%\r\x1b[32m2\x1b[0m%", "", True, 8)
def test_a_terminal_shows_the_same_without_it(
    before: str,
    text: str,
    after: str,
    known: bool,  # noqa: FBT001
    least: int,
) -> None:
    data = text.encode()
    column = column_after(before) if known else None
    left = without(data, superseded(data, column, least_bytes=least)).decode()
    assert screen(before + left + after) == screen(before + text + after)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("ab", max_size=6), min_size=1, max_size=12), TEXTS, TEXTS)
def test_plain_redraws_too(states: list[str], before: str, after: str) -> None:
    text = "\r".join(states)
    left = without(text.encode(), superseded(text.encode(), None)).decode()
    assert screen(before + left + after) == screen(before + text + after)


BARS = {
    "tqdm": "".join(f"\r{n:3}%|{'#' * (n // 10):10}| {n}/100" for n in range(100)),
    "colours": "".join(f"\r\x1b[32m{n:3}%\x1b[0m of \x1b[1m100\x1b[0m" for n in range(100)),
    "erased": "".join(f"\r\x1b[K{n}%" for n in range(100)),
    "erased first": "".join(f"\x1b[2K\r{n}%" for n in range(100)),
    "carriage return last": "".join(f"step {n:3}\r" for n in range(100)),
    "backspaces": "\r" + "".join(f"{n:3}%\b\b\b\b" for n in range(100)),
    "nested": "".join(f"\n\rinner {n:3}\x1b[A" for n in range(100)),
    "both of nested": "".join(f"\router {n // 10}" + f"\n\rinner {n % 10}\x1b[A" for n in range(100)),
    "rich": "a\nb\nc" + "".join(f"\r\x1b[2K\x1b[1A\x1b[2K\x1b[1A\x1b[2Ka{n:3}\nb{n:3}\nc{n:3}" for n in range(100)),
    "wide characters": "".join(f"\r進捗 {n:3}% {'雪' * (n // 10)}🙂" for n in range(100)),
    "hidden cursor": "".join(f"\r\x1b[?25l⠋ wait {n:3}\x1b[?25h" for n in range(100)),
    "in a finished line": "".join(f"\r{n:3}%" for n in range(100)) + "\ndone\n",
}


@pytest.mark.parametrize("bar", BARS)
def test_of_a_bar_little_is_left(bar: str) -> None:
    data = BARS[bar].encode()
    left = without(data, superseded(data, 0))
    assert len(left) < len(data) / 10
    assert screen(left.decode()) == screen(BARS[bar])


@pytest.mark.parametrize("text", ["line\n" * 100, "line\r\n" * 100, "\x1b]0;title\rab\rcd\x07\rab", "a\x1bcb\rc\rd"])
def test_what_is_no_bar_is_left_alone(text: str) -> None:
    assert superseded(text.encode(), 0, least_bytes=64) == []


@pytest.mark.parametrize("bar", BARS)
def test_a_bar_is_counted_as_what_is_to_be_seen(bar: str) -> None:
    extent = Extent(0)
    data = BARS[bar].encode()
    for at in range(0, len(data), 7):
        extent.advance(data[at : at + 7])
    assert extent.visible_bytes < 60


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["line\n", "grün 雪\n", "x", "\x1b[31mred\x1b[0m\n", "line\r\n"]), max_size=80), st.data()
)
def test_lines_count_whole(lines: list[str], data: st.DataObject) -> None:
    text = "".join(lines).encode()
    extent = Extent(0)
    at = 0
    while at < len(text):
        size = data.draw(st.integers(1, 40))
        extent.advance(text[at : at + size])
        at += size
    returns = text.count(b"\r")
    assert len(text) - returns - 10 <= extent.visible_bytes <= len(text)


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(1, 9))
def test_the_column_is_known_in_any_chunking(text: str, size: int) -> None:
    extent = Extent(0)
    data = text.encode()
    for at in range(0, len(data), size):
        extent.advance(data[at : at + size])
    assert extent.between_tokens
    assert extent.column == column_after(text)
