from __future__ import annotations

import sys

import pytest

from skyrl_magic.core.protocol.columns import are_singles, columns, columns_of, leading_marks


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("", 0),
        ("abc", 3),
        ("é", 1),
        ("e\u0301", 1),
        ("漢字", 4),
        ("🙂", 2),
        ("❤\ufe0f", 1),
        ("ｱ", 1),
        ("\uff21", 2),
        ("█▌⠋", 3),
    ],
)
def test_columns_of_text(text: str, width: int) -> None:
    assert columns(text) == width


def test_what_is_found_quickly_is_right() -> None:
    singles = [char for char in map(chr, range(0x20, sys.maxunicode + 1)) if are_singles(char)]
    assert {columns_of(char) for char in singles if not 0x7F <= ord(char) < 0xA0} == {1}


def test_marks_at_the_start() -> None:
    assert [leading_marks(text) for text in ("", "a", "漢", "\u0301", "\u0301\u0302a", "a\u0301")] == [0, 0, 0, 1, 2, 0]
