"""Ray's part in idle time: a detached actor that computes keeps the session, one that waits does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from skyrl_magic.agent.idle import BUSY_CORES
from skyrl_magic.loopback.daemon import ServerAddress
from tests.contract.conftest import make_checkout
from tests.kernel.conftest import Kernel, make_kernel
from tests.kernel.test_ray_cells import RAY_TIMEOUT_S

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

IDLE_S = 16
ACTORS = """
import ray
ray.init()
@ray.remote(num_cpus=0)
class Trainer:
    def step(self):
        while True:
            pass
    def ready(self):
        pass
works = Trainer.options(name="works", namespace="n", lifetime="detached").remote()
waits = Trainer.options(name="waits", namespace="n", lifetime="detached").remote()
ray.get([works.ready.remote(), waits.ready.remote()])
ref = works.step.remote()
"""
#: Looks at the container's processes as the supervisor does, and prints what each tree uses of a core.
MEASURE = """%%skyrl_modal
python3 - <<'END'
import sys, time
sys.path.insert(0, "/opt/skyrl_magic/agent.pyz")
from skyrl_magic.agent import cpu_use
cpu_use.os.getpid = lambda: 1
use = cpu_use.CpuUse(time.monotonic)
use.look()
time.sleep(20)
for pid, cores in sorted(use.look().items(), key=lambda item: -item[1]):
    print(f"{cores:.3f} {cpu_use.title(pid)}")
END
"""


@pytest.fixture
def kernel(loopback_server: ServerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A notebook whose session has Ray."""
    checkout = make_checkout(tmp_path_factory.mktemp("kernel") / "SkyRL", old_layout=False)
    kernel = make_kernel(checkout.root, loopback_server)
    try:
        kernel.run("%load_ext skyrl_magic\n%config SkyRLMagic.gpu = 'none'")
        kernel.run("%skyrl_start", timeout_s=RAY_TIMEOUT_S)
        yield kernel
        kernel.run("%skyrl_stop --all")
    finally:
        kernel.close()


def until_state(kernel: Kernel, condition: str) -> str:
    """Ask for the table of sessions until ``condition`` on its text holds; the last one."""
    return kernel.run(
        "import time\ndeadline = time.monotonic() + 100\n"
        "while time.monotonic() < deadline:\n"
        "    table = repr(get_ipython().run_line_magic('skyrl_sessions', ''))\n"
        f"    if {condition}: break\n"
        "    time.sleep(0.5)\n"
        "print(table)"
    ).out


def test_an_actor_that_computes_keeps_the_session_and_one_that_waits_does_not(kernel: Kernel) -> None:
    assert kernel.run(f"%%skyrl_python\n{ACTORS}").status == "ok"
    measured = kernel.run(MEASURE, timeout_s=200).out
    shares = {name: float(cores) for cores, name in (line.split(" ", 1) for line in measured.splitlines())}
    assert shares["ray::Trainer.step"] > 2 * BUSY_CORES, measured
    assert shares["ray::Trainer"] < BUSY_CORES / 2, measured
    kernel.run("%skyrl_restart")  # the driver ends: the actors are nobody's
    kernel.run(f"%skyrl_start --idle-timeout {IDLE_S}")
    assert "Ray runs Trainer.step" in until_state(kernel, "'Ray runs' in table")
    kernel.run(f"import time; time.sleep({1.5 * IDLE_S})")
    assert "Ray runs Trainer.step" in until_state(kernel, "True")
    kernel.run("%%skyrl_python\nimport ray\nray.init(namespace='n')\nray.kill(ray.get_actor('works'))")
    assert "no sessions run" in until_state(kernel, "'no sessions' in table")
