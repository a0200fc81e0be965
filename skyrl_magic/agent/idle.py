"""Whether anybody needs the session. When nobody has for its idle timeout, it ends.

It is needed while a run goes on (so while a cell waits for one, also at ``input()``), Ray starts, or the Python kernel
says that it is busy (with a widget's callback, too), and each request of a client is a use. A client that is merely
attached needs nothing. Where all that is quiet, what runs without any of it is looked for now and then: kernels'
threads, Ray's tasks and actors of drivers that are no run's (``ray job submit``, detached actors), and the GPU.
"""

from __future__ import annotations

import math
import selectors
from typing import Callable, List, Optional

from skyrl_magic.agent.cpu_use import RAY, CpuUse, is_ray_work, title
from skyrl_magic.agent.nvidia import NvidiaSmi

#: How often that is looked for, in seconds, and the share of a short idle timeout.
PROBE_S = 30.0
PROBE_SHARE = 0.25
#: A process tree that used less of one core than this since the look before does nothing. Measured with Ray 2.60 on two
#: busy cores: an actor that waits uses 0.004, and a kernel with a connected driver at most 0.031.
BUSY_CORES = 0.1
#: A GPU below this utilisation does nothing. It is the share of the last second at most in which a kernel ran on it
#: (nvidia-smi), so a model that is loaded and waits shows 0, and one that trains shows it in one of several looks.
BUSY_GPU_PERCENT = 5


class Idle:
    """The session's idle time. Times are those of ``clock``.

    Args:
        selector: of the supervisor.
        timeout_s: after so long without need the session ends.
        kernel_pid: the root of the Python kernel's processes, 0 without one.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        timeout_s: float,
        kernel_pid: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self.timeout_s = timeout_s
        self.busy_with = ""
        """What was found to go on without a run at the last look; empty for nothing."""
        self._kernel_pid = kernel_pid
        self._clock = clock
        self._cpu = CpuUse(clock)
        self._gpu = NvidiaSmi(selector, "utilization.gpu", self._gpu_answered, clock)
        self._used_at = clock()
        self._probed_at: Optional[float] = None
        self._needed = False
        self._busy_by = ""

    def use(self) -> None:
        """Somebody used the session: the idle time begins again."""
        self._used_at = self._clock()

    @property
    def idle_s(self) -> float:
        """Seconds since anybody needed it."""
        return 0.0 if self._needed else self._clock() - self._used_at

    def turn(self, *, needed: bool) -> None:
        """Take note of whether somebody needs the session now, and look around if it is time."""
        now = self._clock()
        self._gpu.turn()
        if needed != self._needed:
            self._needed = needed
            self.use()
            self._probed_at, self.busy_with = None, ""
            self._cpu.forget()
        if not needed and now >= self._next_probe_at:
            self._probe(now)

    @property
    def over(self) -> bool:
        """Whether the session has been idle for so long that it ends: by the last look, which was just now."""
        now = self._clock()
        looked = self._probed_at is not None and now < self._next_probe_at and not self._gpu.asking
        return not self._needed and now - self._used_at >= self.timeout_s and looked

    @property
    def next_at(self) -> float:
        """When :meth:`turn` has something to do."""
        if self._gpu.asking:
            return self._gpu.kill_at
        return math.inf if self._needed else min(self._used_at + self.timeout_s, self._next_probe_at)

    def reaped(self, pid: int) -> bool:
        """Take the end of process ``pid`` if it is one of ours."""
        return self._gpu.reaped(pid)

    @property
    def _next_probe_at(self) -> float:
        step_s = min(PROBE_S, PROBE_SHARE * self.timeout_s)
        if self._probed_at is None:  # not at once: another cell may come, which should not wait for it
            return self._used_at + step_s
        end_at, next_at = self._used_at + self.timeout_s, self._probed_at + step_s
        return end_at if self._probed_at < end_at < next_at else next_at  # the last one comes when the time is over

    def _probe(self, now: float) -> None:
        first, self._probed_at = self._probed_at is None, now
        self._found(self._computing(), "cpu")
        if not first:
            self._gpu.ask()

    def _computing(self) -> str:
        kernel = self._kernel_pid()
        for pid, cores in self._cpu.look().items():
            if cores >= BUSY_CORES:
                if pid == kernel:
                    return "the Python kernel computes"
                if is_ray_work(pid):
                    return f"Ray runs {title(pid)[len(RAY) :]}"
        return ""

    def _gpu_answered(self, lines: List[str]) -> None:
        percents = [int(line) for line in lines if line.strip().isdigit()]
        if not percents:
            return
        percent = max(percents)
        self._found(f"GPU at {percent} %" if percent >= BUSY_GPU_PERCENT else "", "gpu")

    def _found(self, what: str, by: str) -> None:
        if what:
            self._busy_by = by
            self.busy_with = what
            self.use()
        elif self.busy_with and self._busy_by == by:
            self.busy_with = ""
