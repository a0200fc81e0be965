"""What the container's own control group says: CPU time, memory, kills for want of memory. Version 2 or 1, or nothing.

Some sandboxes show none of it, so each reader has an answer for that: None.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Optional, Tuple

FOLDER = Path("/sys/fs/cgroup")
_US_PER_S, _NS_PER_S = 1e6, 1e9
#: Version 1 has the largest multiple of a page below 2**63 where there is no limit.
_NO_LIMIT_BYTES = 1 << 60


class Cgroup:
    """The control group in ``folder``, where the kernel shows a container its own."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder

    def cpu_s(self) -> Optional[float]:
        """CPU time used so far by all processes, in seconds of a hardware thread."""
        used_us = self._field("cpu.stat", "usage_usec")
        if used_us is not None:
            return used_us / _US_PER_S
        used_ns = self._number("cpuacct/cpuacct.usage")
        return None if used_ns is None else used_ns / _NS_PER_S

    def memory_bytes(self) -> Optional[int]:
        """Memory in use, without what the page cache would give back first."""
        for current, stat, cache in (
            ("memory.current", "memory.stat", "inactive_file"),
            ("memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
        ):
            used = self._number(current)
            if used is not None:
                return max(used - (self._field(stat, cache) or 0), 0)
        return None

    def cpu_limit(self) -> Optional[float]:
        """How many CPUs it may use; None without a limit."""
        quota_us, period_us = self._quota("cpu.max")
        if quota_us is None:
            quota_us, period_us = self._number("cpu/cpu.cfs_quota_us"), self._number("cpu/cpu.cfs_period_us")
        return quota_us / period_us if quota_us and period_us and quota_us > 0 else None

    def memory_limit_bytes(self) -> Optional[int]:
        """How much memory it may use; None without a limit."""
        for name in ("memory.max", "memory/memory.limit_in_bytes"):
            limit = self._number(name)  # version 2 says "max" where there is none, version 1 a number beyond any
            if limit is not None:
                return limit if limit < _NO_LIMIT_BYTES else None
        return None

    def oom_kills(self) -> int:
        """How many processes the kernel has killed because the container's memory was full; 0 where it does not say."""
        found = self._field("memory.events", "oom_kill")
        if found is None:
            found = self._field("memory/memory.oom_control", "oom_kill")
        return found or 0

    def _quota(self, name: str) -> Tuple[Optional[int], Optional[int]]:
        with contextlib.suppress(OSError, ValueError):
            quota, period = (self._folder / name).read_text(encoding="ascii").split()
            return int(quota), int(period)
        return None, None

    def _number(self, name: str) -> Optional[int]:
        with contextlib.suppress(OSError, ValueError):
            return int((self._folder / name).read_text(encoding="ascii"))
        return None

    def _field(self, name: str, key: str) -> Optional[int]:
        with contextlib.suppress(OSError, ValueError):
            for line in (self._folder / name).read_text(encoding="ascii").splitlines():
                if line.startswith(f"{key} "):
                    return int(line.split()[1])
        return None
