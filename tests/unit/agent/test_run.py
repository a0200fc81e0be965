"""One run as the supervisor keeps it."""

from __future__ import annotations

from skyrl_magic.agent.run import Run
from skyrl_magic.agent.shim import RunSpec


def test_how_far_a_run_was_shown_never_goes_back() -> None:
    run = Run(RunSpec("run", "folder", "/", {}, errexit=False), "true")
    run.see("mine", (5, 0, 2))
    run.see("mine", (3, 1, 0))  # from the client's other writer
    assert run.seen == {"mine": (5, 1, 2)}
