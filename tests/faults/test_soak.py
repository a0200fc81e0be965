"""A thousand runs in one session: nothing grows."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil
import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.faults.ledger import Ledger
from tests.faults.sandbox import Inside
from tests.kernel.conftest import Kernel
from tests.kernel.processes import processes_of
from tests.kernel.test_background import run_id_of
from tests.loopback.making import until

pytestmark = pytest.mark.faults

#: Runs before the first look: what is made once is there then.
WARM_RUNS = 100
MEMORY_GROWTH = 0.10
#: ipykernel closes every 10 s what it had opened for threads that are over (``ipykernel.iostream.IOPubThread``).
_COLLECTED_S = 15.0


def shell(kernel: Kernel, number: int) -> None:
    assert kernel.run(f"%%skyrl_modal\necho run {number}; echo to {number} >&2").out == f"run {number}\n"


def python(kernel: Kernel, number: int) -> None:
    assert kernel.run(f"%%skyrl_python\nprint('run', {number})\n{number}").result == str(number)


def background(kernel: Kernel, number: int) -> None:
    kernel.run(f"%%skyrl_modal --bg\necho run {number}")
    assert kernel.run("_.wait(60).tail()").result == f"'run {number}'"


def cancelled(kernel: Kernel, number: int) -> None:
    kernel.run(f"%%skyrl_modal --bg\necho run {number}; sleep 1000")
    cell = kernel.run(f"%skyrl_cancel {run_id_of(kernel)}")
    assert any("is stopped" in note for note in cell.notes), cell.notes


def failed(kernel: Kernel, number: int) -> None:
    assert f"exit code {number % 100 + 1}" in kernel.run(f"%%skyrl_modal\nexit {number % 100 + 1}").error[-1]


def raised(kernel: Kernel, number: int) -> None:
    assert kernel.run(f"%%skyrl_python\nraise ValueError({number})").error[-1].endswith(f": {number}")


def interrupted(kernel: Kernel, number: int) -> None:
    cell = kernel.run(f"%%skyrl_modal\necho run {number}; sleep 1000", interrupt_at="run")
    assert "was stopped by SIGINT" in cell.error[-1], cell.error


KINDS: tuple[Callable[[Kernel, int], None], ...] = (
    shell, python, background, cancelled, failed, python, shell, raised, interrupted, shell
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """What a process has."""

    memory_bytes: int
    descriptors: int
    threads: int


def test_a_thousand_runs(kernel: Kernel, server: ServerAddress) -> None:
    ledger = Ledger(
        12,
        "1,000 runs in one session: shell, Python, background, cancelled, failed, stopped",
        "no more processes, threads and descriptors than after the first 100, and no more than 10 % more memory: "
        "supervisor, `attach`, relay, both kernels",
        full=1000,
        short=60,
    )
    kernel.run("%%skyrl_python\nimport os")
    inside, pid = Inside(server), int(kernel.run("import os; os.getpid()").result)
    warm = WARM_RUNS if ledger.is_full else 20
    for number in range(warm):
        KINDS[number % len(KINDS)](kernel, number)
    if ledger.is_full:
        time.sleep(_COLLECTED_S)  # nothing tells of it
    before = _sizes(inside, server, pid)
    count = len(inside.processes())
    for number in ledger:
        with ledger.trial():
            KINDS[number % len(KINDS)](kernel, number)
            if number == ledger.times - 1:
                until(lambda: len(inside.processes()) <= count)
                _collected(psutil.Process(pid), before["the notebook's kernel"].descriptors)
                ledger.note(f"processes in the session {count} → {len(inside.processes())}")
                _compare(ledger, before, _sizes(inside, server, pid))


def _collected(notebook: psutil.Process, descriptors: int) -> None:
    """Let ipykernel collect what it keeps of threads that have shown something."""
    with suppress(AssertionError):  # the comparison says by how much
        until(lambda: notebook.num_fds() <= descriptors, _COLLECTED_S)


def _sizes(inside: Inside, server: ServerAddress, pid: int) -> dict[str, Size]:
    """What the processes have that live as long as the session or the notebook."""
    found = {"supervisor": inside.supervisor, "the notebook's kernel": psutil.Process(pid)}
    for name in ("attach", "relay", "kernel"):
        [found[name]] = processes_of(server, name)
    return {name: _size(process) for name, process in found.items()}


def _size(process: psutil.Process) -> Size:
    return Size(process.memory_info().rss, process.num_fds(), process.num_threads())


def _compare(ledger: Ledger, before: dict[str, Size], after: dict[str, Size]) -> None:
    grown: list[str] = []
    for name, was in before.items():
        now = after[name]
        share = now.memory_bytes / was.memory_bytes - 1
        memory = f"{was.memory_bytes / 1e6:.1f} → {now.memory_bytes / 1e6:.1f} MB ({share:+.1%})"
        text = f"{name} {memory}, descriptors {was.descriptors} → {now.descriptors}"
        ledger.note(f"{text}, threads {was.threads} → {now.threads}")
        if share > MEMORY_GROWTH or now.descriptors > was.descriptors or now.threads > was.threads:
            grown.append(text)
    assert not grown, "; ".join(grown)
