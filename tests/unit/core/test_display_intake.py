from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from skyrl_magic.core.display_intake import Intake
from skyrl_magic.core.protocol import STDERR, STDOUT, Gap, Output

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
