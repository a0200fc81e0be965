from __future__ import annotations

import pytest

from skyrl_magic.core.ends import End, How, end_reason

ENDS = "skyrl_magic: the session ends: "
AGAIN = "run the cell again, and choose another --image if it says the same"
OOM = "skyrl_magic: out of memory: the kernel killed a process\n"
ASKED = f"{ENDS}the backend ended its container (it was preempted, or stopped there)\n"


@pytest.mark.parametrize(
    ("end", "output", "reason"),
    [
        (End(How.EXITED, 0), f"{ENDS}nothing ran\nskyrl_magic: session x is over\n", "nothing ran"),
        (End(How.TERMINATED, 137), f"{ENDS}%skyrl_stop ended it\n", "%skyrl_stop ended it"),
        (End(How.TIMED_OUT, 124), "skyrl_magic: session x is up after 0.2 s\n", "its hard timeout was over"),
        (End(How.TERMINATED, 137), "", "it was ended from outside"),
        (End(How.TERMINATED, 137, "by hand"), "", "it was ended from outside (by hand)"),
        (End(How.TERMINATED, 137), ASKED, "the backend ended its container (it was preempted, or stopped there)"),
        (End(How.PREEMPTED, 137), ASKED, "it was preempted: its machine was taken away"),
        (End(How.EVICTED, 137), ASKED, "it was evicted: the memory of the machine that it shared was full"),
        (End(How.OUT_OF_MEMORY, 137), "", "its own memory was full: a larger --memory gives it more"),
        (End(How.NOT_STARTED, 1, "no such mount"), "", f"it could not start (no such mount): {AGAIN}"),
        (End(How.EXITED, 137), "", "it was killed (exit code 137)"),
        (End(How.EXITED, -9), "", "it was killed (SIGKILL)"),
        (End(How.EXITED, 137), OOM, "out of memory (exit code 137)"),
        (End(How.TERMINATED, 137), OOM, "it was ended from outside"),
        (End(How.EXITED, 1), f"{OOM}last\n", "exit code 1: last"),
        (End(How.EXITED, 1), "Traceback\nOSError: no disk\n", "exit code 1: OSError: no disk"),
        (End(How.EXITED, 1), "", "exit code 1"),
        (End(How.EXITED, 2), "echo the session ends: no", "exit code 2: echo the session ends: no"),
    ],
)
def test_why_a_container_has_ended(end: End, output: str, reason: str) -> None:
    assert end_reason(end, output) == reason


def test_a_machine_that_can_be_taken_away_may_have_been() -> None:
    assert end_reason(End(How.TERMINATED, 137), "", preemptible=True) == "it was ended from outside, or preempted"
    assert end_reason(End(How.TIMED_OUT, 124), "", preemptible=True) == "its hard timeout was over"
