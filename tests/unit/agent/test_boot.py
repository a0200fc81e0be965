"""What the agent says of a container that it cannot use."""

from __future__ import annotations

import pytest

from skyrl_magic.agent.boot import cannot_start


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError("no address"), "no address"),
        (OSError(28, "No space left on device", "/root/x"), "No space left on device at /root/x"),
    ],
)
def test_the_cause_is_said(error: OSError, cause: str) -> None:
    assert f"cannot start ({cause}): run" in cannot_start(error)
