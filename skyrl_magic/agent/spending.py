"""What the session has cost so far, from the prices that its client knows.

Modal bills a GPU for as long as the container lives, and of CPU and memory what was asked for or what is used,
whichever is more (modal.com/docs/guide/sandbox-resources). GPU and what was asked for are one price an hour; use beyond
that is measured here.
"""

from __future__ import annotations

from typing import Optional

from skyrl_magic.agent.cgroup import Cgroup
from skyrl_magic.agent.config import Config

#: How often use is measured, in seconds: a budget is not exact to less than that.
SAMPLE_S = 10.0
_S_PER_H = 3600.0
#: Modal's CPU core is a physical one: two hardware threads.
_THREADS_PER_CORE = 2
_FAR_S = 1e9


class Spending:
    """Counts from the supervisor's start. Times are those of :func:`time.monotonic`.

    Args:
        config: the prices, and what was asked for.
        began: when the supervisor started.
        cgroup: where use is read.
    """

    def __init__(self, config: Config, began: float, cgroup: Optional[Cgroup] = None) -> None:
        self._config = config
        self._began = began
        self._cgroup = cgroup or Cgroup()
        self._base_usd_per_hour = config.usd_per_hour
        self._metered = bool(config.usd_per_core_hour or config.usd_per_gib_hour)
        self._extra_usd = 0.0
        self._extra_usd_per_hour = 0.0
        self._sampled_at = began
        self._cpu_s = self._cgroup.cpu_s() if self._metered else None

    @property
    def usd_per_hour(self) -> float:
        """What an hour costs at the present use; 0 where no price is known."""
        return self._base_usd_per_hour + self._extra_usd_per_hour

    def set_price(self, usd_per_hour: float) -> None:
        """Count with another price an hour, for all of it, from the session's start."""
        self._base_usd_per_hour = usd_per_hour
        self._metered, self._extra_usd, self._extra_usd_per_hour = False, 0.0, 0.0

    def spent_usd(self, now: float) -> float:
        """What the session has cost up to ``now``."""
        base = self.spent_at(self._base_usd_per_hour, now)
        return base + self._extra_usd + self._extra_usd_per_hour * (now - self._sampled_at) / _S_PER_H

    def spent_at(self, usd_per_hour: float, now: float) -> float:
        """What it would have cost at this price."""
        return usd_per_hour * (now - self._began) / _S_PER_H

    def until(self, usd: float, now: float) -> float:
        """When ``usd`` will have been spent at the present use."""
        left = usd - self.spent_usd(now)
        if left <= 0:
            return now
        return now + min(left / self.usd_per_hour * _S_PER_H, _FAR_S) if self.usd_per_hour else now + _FAR_S

    def next_at(self, now: float) -> float:
        """When use is to be measured next."""
        return self._sampled_at + SAMPLE_S if self._metered else now + _FAR_S

    def sample(self, now: float) -> None:
        """Measure what is used beyond what was asked for, if it is time."""
        if not self._metered or now < self._sampled_at + SAMPLE_S:
            return
        passed_s, config = now - self._sampled_at, self._config
        cpu_s, memory_bytes = self._cgroup.cpu_s(), self._cgroup.memory_bytes()
        extra = 0.0
        if cpu_s is not None and self._cpu_s is not None:
            cores = (cpu_s - self._cpu_s) / passed_s / _THREADS_PER_CORE
            extra += max(cores - config.cores, 0.0) * config.usd_per_core_hour
        if memory_bytes is not None:
            extra += max(memory_bytes / 2**30 - config.memory_gib, 0.0) * config.usd_per_gib_hour
        self._cpu_s, self._sampled_at, self._extra_usd_per_hour = cpu_s, now, extra
        self._extra_usd += extra * passed_s / _S_PER_H
