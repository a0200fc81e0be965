from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrl_magic.core import values
from skyrl_magic.core.protocol.durations import duration_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-0.3, "0s"),
        (4.24, "4.2s"),
        (45, "45s"),
        (59.94, "59.9s"),
        (59.96, "1m"),
        (185.4, "3m5s"),
        (3599.4, "59m59s"),
        (3599.6, "1h"),
        (3629, "1h"),
        (7800, "2h10m"),
        (90_000, "25h"),
    ],
)
def test_durations_have_one_style(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@given(st.integers(1, 86400))
def test_what_is_written_for_an_option_is_read_as_the_same(duration_s: int) -> None:
    assert values.duration_s("--timeout", values.duration_text(duration_s)) == duration_s


@given(st.floats(0, 1e6))
def test_no_duration_is_further_off_than_its_last_unit(seconds: float) -> None:
    read = values.seconds_of(duration_text(seconds))
    assert read is not None
    assert abs(read - seconds) <= (0.06 if seconds < 60 else 0.5 if seconds < 3599 else 31)
