"""The container's side: how fast Stop is, and how much memory the agent keeps."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from bench.kernels import CellFailed
from bench.rows import MB, MS, Row, Series, reference
from bench.world import SESSION, World
from skyrl_magic.core.contract import AGENT_PATH

_AGENT_BYTES = 40_000_000
_SLEEPS = itertools.count(1)


def rows(world: World) -> list[Row]:
    """The rows of this module."""
    return [*_memory(world), *_stop(world)]


def _memory(world: World) -> list[Row]:
    """Resident memory after the runs that came before, with their journals read."""
    world.kernel()
    sizes = {"supervise": 0.0, "what watches it": 0.0, "attach": 0.0}
    agents = list(_agents())
    space = next(_space(process) for process, _ in agents if _is_ours(process, world))
    for process, role in agents:
        if _space(process) == space:
            forks = _forks_above(process)
            if role == "attach" or forks == 1:
                sizes[role] += process.memory_info().rss
            elif forks == 0:  # what it has in common with the supervisor, its fork, is counted there
                sizes["what watches it"] += process.memory_full_info().uss
    total = Series((sum(sizes.values()),), MB)
    return [
        Row("agent resident (supervisor, what watches it, attach)", f"{total.median / 1e6:.3g} MB", total, "≤ 40 MB",
            total.median <= _AGENT_BYTES),
        *(reference(f"… `{role}`", Series((size,), MB)) for role, size in sizes.items()),
    ]  # fmt: skip


def _agents() -> Iterator[tuple[psutil.Process, str]]:
    """The agent's processes on this machine, and what they do: ``supervise`` or ``attach``."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[2:3] == [AGENT_PATH]:
            yield process, words[3]


def _is_ours(process: psutil.Process, world: World) -> bool:
    """Whether it is the supervisor of the benchmark's session; another benchmark's may have the same name."""
    words = process.cmdline()
    above = [word for parent in process.parents() for word in parent.cmdline()]
    return (
        words[3] == "supervise"
        and json.loads(words[-1])["session"] == SESSION
        and any(str(world.server.state_dir) in word for word in above)
    )


def _space(process: psutil.Process) -> str:
    """The process namespace, which is the sandbox's own."""
    return str(Path(f"/proc/{process.pid}/ns/pid").readlink())


def _forks_above(process: psutil.Process) -> int:
    """How many forks it is from its program's start: 1 for the supervisor, 2 for the shim of the next run."""
    command = process.cmdline()
    return sum(parent.cmdline() == command for parent in process.parents())


def _stop(world: World) -> list[Row]:
    """Interrupt a cell whose processes have detached in part, and see that none is left."""
    kernel = world.kernel()
    took: list[float] = []
    for _ in range(world.rounds(10)):
        words = f"sleep 31{world.server.pid}.{next(_SLEEPS)}"
        # Stopped when all run: a signal that comes while bash forks does not reach the child.
        code = f"%%skyrl_modal\nsetsid --wait {words} | {{ sleep 0.5; echo begun; exec {words}; }}"
        began = time.perf_counter()
        cell = kernel.run(code, interrupt_at="begun", may_fail=True)
        if "stopped by SIGINT" not in cell.error:
            raise CellFailed(f"the cell was not stopped: {cell.error or cell.text}")
        took.append(began + cell.took_s - cell.interrupted_at)
        left = [p.pid for p in psutil.process_iter(["cmdline"]) if words in " ".join(p.info["cmdline"] or ())]
        if left:
            raise CellFailed(f"processes {left} outlived the cell that was stopped")
    name = "Stop to the cell's end, with the last process gone (one has detached)"
    return [reference(name, Series(tuple(took), MS))]
