from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyrl_magic.core.ansi import Pen, Token, Tokenizer, harmless, render

PIECES = st.sampled_from(
    [
        "text",
        "é",
        "漢",
        "\x1b",
        "[",
        "]",
        "\\",
        "31",
        ";",
        "m",
        "K",
        "?",
        "\n",
        "\r",
        "\b",
        "\x07",
        "\x00",
        "\x9c",
        "P",
        "(",
        "\t",
    ]
)


def tokens_of(data: bytes, sizes: list[int]) -> list[Token]:
    """The tokens of ``data`` cut into chunks of ``sizes``, with neighbouring text joined."""
    tokenizer = Tokenizer()
    found: list[Token] = []
    at = 0
    for size in [*sizes, len(data)]:
        found += tokenizer.feed(data[at : at + size])
        at += size
    found += tokenizer.feed(b"", final=True)
    joined: list[Token] = []
    for kind, value in found:
        if joined and not kind and not joined[-1][0]:
            joined[-1] = ("", joined[-1][1] + value)
        else:
            joined.append((kind, value))
    return joined


@settings(deadline=None)
@given(st.lists(st.one_of(PIECES.map(str.encode), st.binary(max_size=4))), st.lists(st.integers(1, 5)))
def test_chunking_does_not_matter(pieces: list[bytes], sizes: list[int]) -> None:
    data = b"".join(pieces)
    assert tokens_of(data, sizes) == tokens_of(data, [])


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])), st.lists(st.integers(1, 5)))
def test_text_without_controls_is_kept(text: str, sizes: list[int]) -> None:
    assert "".join(value for _, value in tokens_of(text.encode(), sizes)) == text


@settings(deadline=None)
@given(st.binary())
def test_no_control_character_gets_through(data: bytes) -> None:
    shown = "".join(map(harmless, tokens_of(data, [])))
    assert not set(shown) & set(map(chr, [*range(8), *range(14, 27), 28, 29, 30, 31, *range(127, 160)]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x00b\x07c", [("", "abc")]),
        ("\x1b]0;a title\x07b", [("", "b")]),
        ("\x1b]8;;http://example.org\x1b\\link\x1b]8;;\x1b\\", [("", "link")]),
        ("\x1b[?1049hscreen\x1b[?1049l", [("", "screen")]),
        ("\x1b(Bset\x1b=", [("", "set")]),
        ("\x1b7a\x1b8", [("s", ""), ("", "a"), ("u", "")]),
        ("\x1b[31mred\x1b[m", [("m", "31"), ("", "red"), ("m", "")]),
        ("\x1b[2Ka\r", [("K", "2"), ("", "a"), ("\r", "")]),
        ("\x1b]never closed\nnext", [("\n", ""), ("", "next")]),
        ("\x1b[1\nx", [("\n", ""), ("", "x")]),
        ("\x1bPq\x1b[31mx", [("m", "31"), ("", "x")]),
        ("a\x0bb", [("", "a"), ("\n", ""), ("", "b")]),
    ],
)
def test_what_a_terminal_shows(text: str, expected: list[Token]) -> None:
    assert tokens_of(text.encode(), []) == expected


@pytest.mark.parametrize("text", ["\x1b[?1049h", "\x1b[?47h", "\x1b[24;1H", "\x1b[5f"])
def test_a_whole_screen_is_seen(text: str) -> None:
    tokenizer = Tokenizer()
    assert [token for byte in text.encode() for token in tokenizer.feed(bytes([byte])) if token[0] not in "Hf"] == []
    assert tokenizer.full_screen


@pytest.mark.parametrize("text", ["\x1b[H\x1b[2J", "\x1b[?25l", "\x1b[1;1H", "\x1b[?1049l", "\x1b[2A\x1b[5G"])
def test_clearing_and_redrawing_is_no_whole_screen(text: str) -> None:
    tokenizer = Tokenizer()
    list(tokenizer.feed(text.encode()))
    assert not tokenizer.full_screen


def test_a_sequence_without_end_is_not_collected() -> None:
    tokens = tokens_of(b"\x1b[" + b"1" * 100_000, [])
    assert tokens == [("", "1" * (100_000 - 64))]


def test_broken_utf8_is_replaced() -> None:
    assert tokens_of(b"a\xff\xe2\x82", [2, 1]) == [("", "a��")]


def test_reset_forgets_an_open_sequence() -> None:
    tokenizer = Tokenizer()
    assert list(tokenizer.feed(b"\x1b]title")) == []
    tokenizer.reset()
    assert list(tokenizer.feed(b"text\xc3")) == [("", "text")]
    tokenizer.reset()
    assert list(tokenizer.feed(b"!")) == [("", "!")]


@pytest.mark.parametrize(
    ("sequences", "style"),
    [
        (["31"], "31"),
        (["31", "42", "1"], "31;42;1"),
        (["31", ""], ""),
        (["1;4;31", "0"], ""),
        (["1;2;3;4", "22;23"], "4"),
        (["38;5;208"], "38;5;208"),
        (["48;2;1;2;3;1"], "48;2;1;2;3;1"),
        (["38:2::1:2:3"], "38;2;1;2;3"),
        (["38:2:1:2:3;1"], "38;2;1;2;3;1"),
        (["38:5:9"], "38;5;9"),
        (["4:3"], "4"),
        (["38;5;999"], ""),
        (["38;5"], ""),
        (["38"], ""),
        (["38;9;1"], ""),
        (["31", "39"], ""),
        (["97;101", "49"], "97"),
        (["5;73"], ""),
        (["58;5;1"], ""),
        (["58;2;1;4;31"], ""),
        (["31;58;5;1;4"], "31;4"),
        (["58:2::1:4:31;1"], "1"),
        (["58:5:1", "59"], ""),
        (["58"], ""),
    ],
)
def test_pen(sequences: list[str], style: str) -> None:
    pen = Pen()
    for parameters in sequences:
        pen.apply(parameters)
    assert pen.style == style


@settings(deadline=None)
@given(st.text("0123456789;:", max_size=30))
def test_pen_takes_any_parameters(parameters: str) -> None:
    Pen().apply(parameters)


def test_render_closes_what_it_opens() -> None:
    assert render([("", "a"), ("31", "b"), ("31", "c"), ("1", "d")]) == "a\x1b[31mbc\x1b[0m\x1b[1md\x1b[0m"
    assert render([("31", "b"), ("", "c")]) == "\x1b[31mb\x1b[0mc"
    assert render([]) == ""


def test_a_terminal_gets_the_moves_within_the_lines_and_no_others() -> None:
    moves = "\x1b[2A\x1b[B\x1b[2E\x1b[F\x1b[3G"
    assert "".join(map(harmless, tokens_of(f"{moves}\x1b[H\x1b[2J\x1b[s\x1b[u\x1b[5S".encode(), []))) == moves
