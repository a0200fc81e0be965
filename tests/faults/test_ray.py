"""Ray under faults: Stop ends what a run started through it, and its raylet's end is said in one line."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil
import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.contract.conftest import make_checkout
from tests.faults.ledger import Ledger
from tests.faults.sandbox import Inside
from tests.kernel.conftest import Kernel, make_kernel
from tests.loopback.making import until

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(600)]

#: Bound on a start, in seconds: Ray takes up to 36 s on two busy cores, and more beside other tests.
START_TIMEOUT_S = 300.0
#: A driver whose tasks sleep, and say when they do; {deaf} ignores SIGINT and SIGTERM.
DRIVER = """%%skyrl_modal
exec python3 -c '
import os, signal, time, ray
ray.init(log_to_driver=False)
@ray.remote(num_cpus=0.1)
class Begun:
    def wait(self): return os.getpid()
@ray.remote(num_cpus=0.1)
def endless(begun):
    ray.get(begun.wait.remote())
    time.sleep(1000)
begun = Begun.remote()
tasks = [endless.remote(begun) for _ in range(2)]
ray.get(begun.wait.remote())
for number in {deaf}: signal.signal(number, signal.SIG_IGN)
print("begun", flush=True)
ray.get(tasks)'"""
DEAF = ("()", "(signal.SIGINT, signal.SIGTERM)")
TASKS = ("ray::endless", "ray::Begun")
WORKS = "import ray\nray.init(ignore_reinit_error=True)\nray.get(ray.remote(lambda: 41).remote()) + 1"
AS_DRIVER = f"%%skyrl_modal\npython3 -c '{WORKS.replace('ray.get', 'assert ray.get')} == 42'"


@pytest.fixture(scope="module")
def kernel(server: ServerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel whose sessions have Ray."""
    checkout = make_checkout(tmp_path_factory.mktemp("kernel") / "SkyRL", old_layout=False)
    kernel = make_kernel(checkout.root, server)
    kernel.run("%load_ext skyrl_magic\n%config SkyRLMagic.gpu = 'none'\n%config SkyRLMagic.grace = 1.0")
    kernel.run("%skyrl_start", timeout_s=START_TIMEOUT_S)
    yield kernel
    kernel.close()


def test_stop_ends_what_a_run_started_through_ray(kernel: Kernel, server: ServerAddress) -> None:
    ledger = Ledger(
        8,
        "Stop on a run whose Ray driver has tasks and an actor; every other driver ignores SIGINT and SIGTERM",
        "its tasks and its actor end, the cluster stays and takes the next driver",
        full=20,
        short=1,
    )
    inside = Inside(server)
    [raylet] = _named(inside, "raylet")
    for number in ledger:
        with ledger.trial():
            pressed: list[float] = []

            def press(pressed: list[float] = pressed) -> None:
                pressed.append(time.monotonic())
                kernel.manager.interrupt_kernel()

            kernel.on_text = ("begun\n", press)
            cell = kernel.run(DRIVER.format(deaf=DEAF[number % 2]))
            ledger.figure("Stop to the cell's end", time.monotonic() - pressed[0], "s")
            assert "was stopped by" in cell.error[-1], cell.error
            until(lambda: not _named(inside, *TASKS))
            ledger.figure("Stop to the last task's end", time.monotonic() - pressed[0], "s")
            assert raylet.is_running()
            assert kernel.run(AS_DRIVER).status == "ok"


def test_the_raylet_is_killed(kernel: Kernel, server: ServerAddress) -> None:
    ledger = Ledger(
        5,
        "`kill -9` of Ray's raylet, and a new session",
        "the supervisor lives; the next cell works and says in one line what fails from now on",
        full=50,
        short=1,
    )
    for number in ledger:
        with ledger.trial():
            if number:
                kernel.run("%skyrl_start", timeout_s=START_TIMEOUT_S)
            assert kernel.run(f"%%skyrl_python\n{WORKS}").result == "42"
            inside = Inside(server)
            [raylet] = _named(inside, "raylet")
            raylet.kill()
            raylet.wait()
            began = time.monotonic()
            cell = kernel.run("%skyrl_modal echo next")
            ledger.figure("the next cell", time.monotonic() - began, "s")
            assert cell.out == "next\n", cell.error
            notes = cell.notes or kernel.run("%skyrl_modal true").notes  # the supervisor had not reaped it yet
            [line] = [note for note in notes if "Ray's raylet has ended (SIGKILL)" in note]
            assert "%skyrl_restart --ray tries again" in line
            assert inside.supervisor.is_running()
            assert kernel.run("%%skyrl_python\n1 + 1").result == "2"
            cell = kernel.run("%skyrl_restart --ray", timeout_s=START_TIMEOUT_S)
            assert any("is new after" in note for note in cell.notes), cell.error
            assert kernel.run(f"%%skyrl_python\nimport ray\nray.shutdown()\n{WORKS}").result == "42"
            assert kernel.run("%skyrl_stop --all").status == "ok"


def _named(inside: Inside, *names: str) -> list[psutil.Process]:
    """The sandbox's processes of these names."""
    found: list[psutil.Process] = []
    for process in inside.processes():
        try:
            title = (process.cmdline() or [process.name()])[0]
        except psutil.Error:
            continue
        if title.startswith(names) or process.name() in names:
            found.append(process)
    return found
