"""How much of the machine Ray is told that it has: what was asked for, where the container shows more.

Under gVisor a container shows its host's CPUs and memory and no limits (docs/modal_limits.md): Ray would start as many
workers as the host has CPUs, and an object store of a third of the host's memory. Where Ray sees the limits itself the
same numbers come out. Nothing asked for and no limit: Ray decides, as it would without us.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

from skyrl_magic.agent.cgroup import Cgroup

#: Ray's own share of the memory for its object store (``ray._private.ray_constants``, Ray 2.60).
STORE_SHARE = 0.3
#: So much of /dev/shm may the object store take; Ray puts one that does not fit into /tmp, with a warning.
SHM_SHARE = 0.95
#: A smaller store is of no use for training, so then /tmp it is. Docker's default /dev/shm has 64 MiB. In bytes.
LEAST_STORE_BYTES = 512 << 20
_KIB = 1024


@dataclass(frozen=True)
class Asked:
    """What a session was started with; 0 for what nobody asked for."""

    cpus: float = 0.0
    memory_bytes: int = 0
    gpus: int = 0


@dataclass(frozen=True)
class Machine:
    """What the container shows; None for what it does not say."""

    cpus: Optional[int] = None
    memory_bytes: Optional[int] = None
    cpu_limit: Optional[float] = None
    """Of its control group, in CPUs."""
    memory_limit_bytes: Optional[int] = None
    shm_bytes: Optional[int] = None
    """What is free in /dev/shm."""


def ray_size(asked: Asked, machine: Machine) -> List[str]:
    """Options of ``ray start``, never more than the machine has.

    A GPU has a CPU at least, and one is left: SkyRL's placement groups want one of each for every worker, and its entry
    point is a task of its own, so fewer would let it wait for ever.
    """
    options = []
    cpus = _least(asked.cpus or None, machine.cpu_limit)
    if cpus is not None:
        count = max(int(cpus), asked.gpus + 1 if asked.gpus else 1)
        options.append(f"--num-cpus={count if machine.cpus is None else min(count, machine.cpus)}")
    memory = _least(asked.memory_bytes or None, machine.memory_limit_bytes)
    if memory is not None:
        total = int(_least(memory, machine.memory_bytes) or memory)
        store = int(total * STORE_SHARE)
        shm = store if machine.shm_bytes is None else int(machine.shm_bytes * SHM_SHARE)
        if shm >= LEAST_STORE_BYTES:
            store = min(store, shm)
        options += [f"--memory={total - store}", f"--object-store-memory={store}"]
    return options


def this_machine(cgroup: Optional[Cgroup] = None) -> Machine:
    """What this container shows."""
    cgroup = cgroup or Cgroup()
    return Machine(
        len(os.sched_getaffinity(0)), _memory_total(), cgroup.cpu_limit(), cgroup.memory_limit_bytes(), _shm_free()
    )


def _least(*values: Optional[float]) -> Optional[float]:
    return min((value for value in values if value is not None), default=None)


def _memory_total(meminfo: Path = Path("/proc/meminfo")) -> Optional[int]:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * _KIB
    return None


def _shm_free(folder: str = "/dev/shm") -> Optional[int]:  # noqa: S108  (asked for its size alone)
    with contextlib.suppress(OSError):
        found = os.statvfs(folder)
        return found.f_bavail * found.f_frsize
    return None
