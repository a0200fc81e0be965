from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyrl_magic.core.streams import MAX_COLUMNS, Screen, Stamp
from tests.unit.core.terminal_model import Terminal, without_colors

PIECES = st.sampled_from(
    [
        *(
            "a",
            "bc",
            "defghi",
            "漢字",
            "é",
            "a漢",
            "🙂",
            "e\u0301",
            "\u0301",
            " ",
            "\n",
            "\n",
            "\r",
            "\r",
            "\b",
            "\x00",
            "\x07",
        ),
        *("\x1b[K", "\x1b[1K", "\x1b[2K", "\x1b[A", "\x1b[2A", "\x1b[C", "\x1b[3C", "\x1b[D", "\x1b[G", "\x1b[4G"),
        *("\x1b[31m", "\x1b[1m", "\x1b[0m", "\x1b[m", "\x1b]0;title\x07", "\x1b[?25l"),
    ]
)
TEXTS = st.lists(PIECES, max_size=40).map("".join)
SIZES = st.lists(st.integers(1, 7))


def screen_of(text: str, sizes: list[int]) -> Screen:
    screen, data, at = Screen(), text.encode(), 0
    for size in [*sizes, len(data)]:
        screen.feed(data[at : at + size], Stamp())
        at += size
    return screen


@settings(deadline=None)
@given(TEXTS, SIZES)
def test_shows_what_a_terminal_shows_under_any_chunking(text: str, sizes: list[int]) -> None:
    screen = screen_of(text, sizes)
    assert [without_colors(row.text()).rstrip() for row in screen.rows] == Terminal(text).plain()
    assert [row.text() for row in screen.rows] == [row.text() for row in screen_of(text, []).rows]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["ab", "c", "\n", "\r", "\x1b[31m", "\x1b[32m", "\x1b[0m"])).map("".join))
def test_colors_stay_with_their_characters(text: str) -> None:
    cells = [
        [(char, style.removeprefix("0;")) for style, part in row.runs for char in part]
        for row in screen_of(text, []).rows
    ]
    assert cells == Terminal(text).lines


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])), SIZES)
def test_nothing_is_lost(text: str, sizes: list[int]) -> None:
    assert "".join(row.text() for row in screen_of(text, sizes).rows) == text


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("abcdef\rxy", ["xycdef"]),
        ("abc\b\bX", ["aXc"]),
        ("abc\r\x1b[Kx", ["x"]),
        ("abc\x1b[2Kx", ["   x"]),
        ("one\r\ntwo\r\n", ["one", "two", ""]),
        ("\router 1\n\rinner 1\x1b[A\router 2\n\rinner 2\x1b[A", ["outer 2", "inner 2"]),
        ("a\nb\n\x1b[2A\x1b[J", ["", "", ""]),
        ("a\nb\x1b[1Fx\x1b[1Ey", ["x", "y"]),
        ("a\x1b[9Ab\x1b[9Bc", ["abc"]),
        ("a 0\nb 0\n\x1b[2A\ra 1\nb 1\ndone\n", ["a 1", "b 1", "done", ""]),
        ("at \x1b71\x1b82\x1b83", ["at 3"]),
        ("\x1b[sa 0\nb 0\x1b[ua 1\nb 1", ["a 1", "b 1"]),
        ("a\x1b8b", ["ab"]),
        ("\x1b[H\x1b[2Jone\x1b[1;5Htwo\n\x1b[Hthree\x1b[7;1f", ["one", "two", "three", ""]),
        ("漢字\rx", ["x 字"]),
        ("漢字\r\x1b[Cx", [" x字"]),
        ("漢字\b\bx", ["漢x "]),
        ("漢字\b\x1b[K", ["漢 "]),
        ("e\u0301漢\u0302\rx", ["x漢\u0302"]),
        ("e\u0301漢\u0302\x1b[2Gx", ["e\u0301x "]),
        ("\u200fa\rb", ["\u200fb"]),
        ("\x1b[31m漢\x1b[32m\u0301\rx", ["\x1b[32mx\x1b[0m "]),
        ("\x1b[999999999Cx", [" " * (MAX_COLUMNS - 1) + "x"]),
    ],
)
def test_cursor(text: str, lines: list[str]) -> None:
    assert [row.text() for row in screen_of(text, []).rows] == lines


@settings(deadline=None)
@given(st.integers(0, 3), st.integers(-2, 2), SIZES)
def test_a_long_line_goes_on_in_rows(rows: int, more: int, sizes: list[int]) -> None:
    text = "x" * max(0, rows * MAX_COLUMNS + more)
    screen = screen_of(f"{text}\nend", sizes)
    assert "".join(row.text() + row.end for row in screen.rows) == f"{text}\nend\n"
    assert max(row.width for row in screen.rows) <= MAX_COLUMNS


@settings(deadline=None)
@given(st.integers(-2, 2), st.text("a漢\u0301🙂", max_size=12), SIZES)
def test_a_long_line_of_wide_characters_too(more: int, text: str, sizes: list[int]) -> None:
    text = "x" * (MAX_COLUMNS + more) + text + "漢" * MAX_COLUMNS
    screen = screen_of(f"{text}\nend", sizes)
    assert "".join(row.text() + row.end for row in screen.rows) == f"{text}\nend\n"
    assert max(row.width for row in screen.rows) <= MAX_COLUMNS


def test_taken_rows_cannot_be_reached() -> None:
    screen = screen_of("a\nb\nc", [])
    assert [row.text() for row in screen.take(5)] == ["a", "b"]
    screen.feed(b"\x1b[9A\rX", Stamp())
    assert [row.text() for row in screen.rows] == ["X"]


def test_break_off_begins_a_clean_row() -> None:
    screen = screen_of("\x1b[31mred\x1b[", [])
    screen.break_off(Stamp())
    screen.feed(b"mplain", Stamp())
    assert [row.text() for row in screen.rows] == ["\x1b[31mred\x1b[0m", "mplain"]


def test_a_cut_character_at_the_end_is_shown() -> None:
    screen = Screen()
    screen.feed("é".encode()[:1], Stamp())
    assert screen.current.text() == ""
    screen.feed(b"", Stamp(), final=True)
    assert screen.current.text() == "�"


def test_moving_tells_a_bar_from_text() -> None:
    assert screen_of("\r 10%", []).moving
    assert screen_of("10%\r", []).moving
    assert screen_of("a\nb\x1b[A", []).moving
    assert not screen_of("text", []).moving
    assert not screen_of("text\r\n", []).moving
    assert not screen_of("\r100%\n", []).moving
