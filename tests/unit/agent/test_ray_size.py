"""What Ray is told that it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from skyrl_magic.agent.cgroup import Cgroup
from skyrl_magic.agent.ray_size import Asked, Machine, ray_size, this_machine

GIB = 1 << 30
#: A container under gVisor: it shows its host, and no limits.
HOST = Machine(cpus=64, memory_bytes=464 * GIB, shm_bytes=232 * GIB)


def sizes(options: list[str]) -> dict[str, int]:
    return {name: int(value) for name, _, value in (option.partition("=") for option in options)}


def test_where_the_host_shows_what_was_asked_for_counts() -> None:
    found = sizes(ray_size(Asked(cpus=4, memory_bytes=16 * GIB), HOST))
    assert found["--num-cpus"] == 4
    assert found["--object-store-memory"] == int(4.8 * GIB)
    assert found["--memory"] + found["--object-store-memory"] == 16 * GIB


def test_nothing_known_is_left_to_ray() -> None:
    assert ray_size(Asked(), HOST) == []
    assert ray_size(Asked(), Machine()) == []


@pytest.mark.parametrize(
    ("asked", "machine", "cpus"),
    [
        (Asked(cpus=0.125), HOST, 1),
        (Asked(cpus=3.9), HOST, 3),
        (Asked(cpus=100), HOST, 64),
        (Asked(cpus=4, gpus=8), HOST, 9),  # a CPU for each GPU, and one for the entry point
        (Asked(cpus=32, gpus=8), HOST, 32),
        (Asked(gpus=8), HOST, None),
        (Asked(cpus=4, gpus=8), Machine(cpus=2), 2),  # never more than there is
        (Asked(cpus=4), Machine(), 4),
        (Asked(cpus=16), Machine(cpus=64, cpu_limit=2.5), 2),
        (Asked(), Machine(cpus=64, cpu_limit=2.5), 2),
    ],
)
def test_cpus(asked: Asked, machine: Machine, cpus: int | None) -> None:
    assert sizes(ray_size(asked, machine)).get("--num-cpus") == cpus


@pytest.mark.parametrize(
    ("memory_gib", "machine", "total_gib", "store_gib"),
    [
        (16, Machine(memory_bytes=8 * GIB), 8, 2.4),  # never more than there is
        (0, Machine(memory_bytes=464 * GIB, memory_limit_bytes=10 * GIB), 10, 3),
        (40, Machine(memory_bytes=464 * GIB, memory_limit_bytes=10 * GIB), 10, 3),
        (10, Machine(shm_bytes=2 * GIB), 10, 1.9),  # what fits into /dev/shm is the quicker store
        (10, Machine(shm_bytes=64 << 20), 10, 3),  # and where that is next to nothing, /tmp has more
        (10, Machine(), 10, 3),
    ],
)
def test_memory(memory_gib: int, machine: Machine, total_gib: float, store_gib: float) -> None:
    found = sizes(ray_size(Asked(memory_bytes=memory_gib * GIB), machine))
    assert found["--object-store-memory"] == pytest.approx(store_gib * GIB, abs=2)
    assert found["--memory"] == pytest.approx((total_gib - store_gib) * GIB, abs=2)


def write(folder: Path, files: dict[str, str]) -> Cgroup:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n")
    return Cgroup(folder)


@pytest.mark.parametrize(
    ("files", "cpus", "memory_bytes"),
    [
        ({"cpu.max": "250000 100000", "memory.max": str(8 * GIB)}, 2.5, 8 * GIB),
        ({"cpu.max": "max 100000", "memory.max": "max"}, None, None),
        (
            {
                "cpu/cpu.cfs_quota_us": "400000",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": str(8 * GIB),
            },
            4.0,
            8 * GIB,
        ),
        (
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            None,
            None,
        ),
        ({"cpu.max": "rubbish", "memory.max": ""}, None, None),
        ({}, None, None),
    ],
)
def test_limits_of_a_control_group(
    tmp_path: Path, files: dict[str, str], cpus: float | None, memory_bytes: int | None
) -> None:
    machine = this_machine(write(tmp_path, files))
    assert (machine.cpu_limit, machine.memory_limit_bytes) == (cpus, memory_bytes)
    assert machine.cpus is not None
    assert machine.memory_bytes is not None
