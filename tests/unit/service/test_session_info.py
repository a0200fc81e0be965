from __future__ import annotations

import time

import pytest

from skyrl_magic.core import protocol
from skyrl_magic.core.gpus import NO_GPU
from skyrl_magic.core.session_tags import SessionTags
from skyrl_magic.core.spec import SessionSpec
from skyrl_magic.service.session_info import SILENT, session_info

SPEC = SessionSpec("local", NO_GPU, "image", "data", "a", ray=False)


@pytest.mark.parametrize(
    ("status", "ends_in_s", "ends_idle", "state"),
    [
        (protocol.Status(idle_s=42.0, idle_timeout_s=600.0, timeout_in_s=3500.0), 558.0, True, "idle 42s"),
        (protocol.Status(idle_s=42.0, idle_timeout_s=9000.0, timeout_in_s=3500.0), 3500.0, False, "idle 42s"),
        (protocol.Status(active_runs=["a", "b"], idle_timeout_s=600.0, timeout_in_s=3500.0), 3500.0, False, "2 runs"),
        (None, None, False, SILENT),
    ],
)
def test_what_ends_a_session_first(
    status: protocol.Status | None,
    ends_in_s: float | None,
    ends_idle: bool,  # noqa: FBT001
    state: str,
) -> None:
    tags = SessionTags("one", "me", time.time() - 100, SPEC)
    row = session_info(tags, ("local", "a", "one"), SPEC, status)
    assert row.ends_in_s == ends_in_s
    assert (row.ends_idle, row.state, row.place) == (ends_idle, state, ("local", "a", "one"))


def test_a_budget_that_next_to_nothing_is_taken_from_ends_nothing() -> None:
    status = protocol.Status(idle_timeout_s=600.0, max_usd=5.0, usd_per_hour=1e-320)
    row = session_info(SessionTags("one", "me", time.time(), SPEC), ("local", "a", "one"), SPEC, status)
    assert (row.ends_in_s, row.ends_spent) == (600.0, False)
