from __future__ import annotations

import pytest
from grpclib import GRPCError, Status

from skyrl_magic.loopback.control.throttle import CREATIONS_BURST, CREATIONS_PER_S, CreationRate


def test_a_burst_and_then_five_a_second() -> None:
    now = [0.0]
    rate = CreationRate(lambda: now[0])
    for _ in range(CREATIONS_BURST):
        rate.take()
    with pytest.raises(GRPCError, match=r"rate limit \(5/s\) exceeded") as caught:
        rate.take()
    assert caught.value.status == Status.RESOURCE_EXHAUSTED
    (policy,) = caught.value.details
    now[0] += policy.retry_after_secs + 1e-6
    rate.take()
    now[0] += 1
    for _ in range(int(CREATIONS_PER_S)):
        rate.take()
    with pytest.raises(GRPCError):
        rate.take()
