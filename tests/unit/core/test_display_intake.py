from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyrl_magic.core.display_intake import Intake
from skyrl_magic.core.protocol import STDERR, STDOUT, Gap, Output, ProtocolError

JOURNAL = bytes(range(97, 117))
PARTS = st.tuples(st.booleans(), st.integers(0, len(JOURNAL)), st.integers(0, len(JOURNAL)))


@settings(deadline=None)
@given(st.lists(PARTS))
def test_every_byte_comes_once_or_counts_as_missing(parts: list[tuple[bool, int, int]]) -> None:
    intake, shown = Intake(), b""
    for is_gap, start, end in parts:
        before = intake.offsets[STDOUT]
        payload = JOURNAL[start:end]
        if is_gap:
            missing, data = intake.take(Gap("k3f9", STDOUT, start, end))
        else:
            missing, data = intake.take(Output("k3f9", STDOUT, start, len(payload), payload=payload))
        reached = intake.offsets[STDOUT]
        assert reached == before + missing + len(data)
        assert data == JOURNAL[reached - len(data) : reached]
        assert not (is_gap and data)
        shown += data
    assert len(set(shown)) == len(shown)
    assert intake.offsets[STDERR] == 0


WRONG: list[Any] = [-1, 1.5, "1", None, [], {}]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_frame_with_numbers_that_cannot_be_is_damaged(wrong: Any) -> None:
    frames: list[Output | Gap] = [
        Output("k3f9", STDOUT, wrong, 1, payload=b"a"),
        Output("k3f9", STDOUT, 1, wrong, payload=b"a"),
        Gap("k3f9", STDOUT, wrong, 1),
        Gap("k3f9", STDOUT, 0, wrong),
    ]
    for frame in frames:
        intake = Intake()
        with pytest.raises(ProtocolError, match="cannot be"):
            intake.take(frame)
        assert intake.offsets[STDOUT] == 0


@pytest.mark.parametrize("wrong", [*WRONG, "stdin"])
def test_a_frame_of_no_stream_is_damaged(wrong: Any) -> None:
    with pytest.raises(ProtocolError, match="no place"):
        Intake().take(Output("k3f9", wrong, 0, 1, payload=b"a"))


@pytest.mark.parametrize("claimed", [-1, 2**40])
def test_no_frame_is_inflated_past_a_frames_size(claimed: int) -> None:
    bomb = zlib.compress(bytes(1_000_000))
    with pytest.raises(ProtocolError, match="cannot be"):
        Intake().take(Output("k3f9", STDOUT, 5, claimed, compressed=True, payload=bomb))
