"""Python cells on the session's Ray: what tasks print is shown with the cell that started them, complete."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.contract.conftest import make_checkout
from tests.kernel.conftest import Cell, Kernel, make_kernel

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

#: Bound on a start, in seconds: Ray takes up to 36 s on two busy cores, and more beside other tests.
RAY_TIMEOUT_S = 300.0
START = "%%skyrl_python\nimport os, sys, time\nimport ray\nray.init();"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def kernel(loopback_server: ServerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel in a checkout with a package, whose session has Ray."""
    checkout = make_checkout(tmp_path_factory.mktemp("kernel") / "SkyRL", old_layout=False)
    (checkout.root / "skyrl-gym" / "skyrl_gym" / "__init__.py").write_text("ANSWER = 42\n")
    kernel = make_kernel(checkout.root, loopback_server)
    try:
        kernel.run("%load_ext skyrl_magic\n%config SkyRLMagic.gpu = 'none'")
        kernel.run("%skyrl_start", timeout_s=RAY_TIMEOUT_S)
        kernel.joined = kernel.run(START)  # type: ignore[attr-defined]
        yield kernel
        kernel.run("%skyrl_stop --all")
    finally:
        kernel.close()


def python(kernel: Kernel, code: str) -> Cell:
    return kernel.run(f"%%skyrl_python\n{code}")


def lines(text: str) -> list[str]:
    return _COLOUR.sub("", text).splitlines()


def test_joining_the_cluster_is_one_line_and_the_log_has_all(kernel: Kernel) -> None:
    joined: Cell = kernel.joined  # type: ignore[attr-defined]
    assert joined.status == "ok", joined.error
    assert joined.err == ""
    (line,) = [line for note in joined.notes for line in lines(note)]
    assert re.fullmatch(r"Ray: joining the cluster at [\d.]+:\d+", line)
    assert "Connected to Ray cluster" in kernel.run("%skyrl_logs").err


def test_what_tasks_print_is_shown_with_their_cell(kernel: Kernel) -> None:
    code = """
@ray.remote
def step(number):
    print("step", number, "a")
    print("step", number, "b")
    print("problem", number, file=sys.stderr)
    return number
ray.get([step.remote(number) for number in range(6)])
"""
    for _ in range(3):  # with workers that start, and with warm ones
        cell = python(kernel, code)
        found = [re.fullmatch(r"\(step pid=(\d+)\) (step (\d) [ab])", line) for line in lines(cell.out)]
        assert sorted(match[2] for match in found if match) == [f"step {n} {part}" for n in range(6) for part in "ab"]
        for number in range(6):  # in order
            assert [match[2][-1] for match in found if match and match[3] == str(number)] == ["a", "b"]
        assert sorted(line.partition(") ")[2] for line in lines(cell.err)) == [f"problem {n}" for n in range(6)]
        assert cell.result == "[0, 1, 2, 3, 4, 5]"
        assert python(kernel, "print('next')").out == "next\n"


def test_a_plain_init_and_an_address_join_the_same_cluster(kernel: Kernel) -> None:
    cell = python(
        kernel,
        """
first = ray.get_runtime_context().get_node_id()
ray.shutdown()
ray.init("auto", logging_level="ERROR")
print(first == ray.get_runtime_context().get_node_id())

@ray.remote
def again():
    print("after a second init")
ray.get(again.remote())
""",
    )
    assert lines(cell.out)[0] == "True"
    assert lines(cell.out)[1].endswith("after a second init")


def test_tasks_import_what_cells_import(kernel: Kernel) -> None:
    code = """
@ray.remote
def answer():
    import skyrl_gym
    return skyrl_gym.ANSWER
import skyrl_gym
ray.get(answer.remote()), skyrl_gym.ANSWER
"""
    assert python(kernel, code).result == "(42, 42)"


def test_a_flood_of_a_task_comes_whole_into_the_log(kernel: Kernel) -> None:
    cell = python(
        kernel,
        """
@ray.remote
def flood():
    for number in range(20_000):
        print("line", number)
ray.get(flood.remote())
""",
    )
    assert cell.status == "ok"
    assert any("left out here" in note for note in cell.notes)
    assert "line 19999" in cell.notes[-1]
    assert python(kernel, "print('next')").out == "next\n"


def test_bars_of_workers_are_redrawn_in_place(kernel: Kernel) -> None:
    cell = python(
        kernel,
        """
from tqdm import tqdm
@ray.remote
def work(number):
    for _ in tqdm(range(40), desc=f"bar {number}"):
        time.sleep(0.02)
ray.get([work.remote(number) for number in range(2)])
""",
    )
    bars = [line for note in cell.notes for line in lines(note)]
    assert len(bars) == 2
    for number in range(2):
        assert sum(bool(re.search(rf"bar {number}: 100%.* 40/40 ", line)) for line in bars) == 1
    assert cell.err.strip() == ""


def test_rays_own_bars_are_the_cells_widgets(kernel: Kernel) -> None:
    cell = python(
        kernel,
        """
from ray.experimental import tqdm_ray
@ray.remote
def work():
    bar = tqdm_ray.tqdm(total=20, desc="work")
    for _ in range(20):
        bar.update(1)
        time.sleep(0.02)
    bar.close()
ray.get(work.remote())
""",
    )
    shown = [m for m in cell.messages if m["msg_type"] == "display_data"]
    assert any("application/vnd.jupyter.widget-view+json" in m["content"]["data"] for m in shown)


def test_an_actor_that_goes_on_prints_under_the_newest_cell(kernel: Kernel) -> None:
    python(
        kernel,
        """
@ray.remote
class Talker:
    def __init__(self):
        self.go = False
    def release(self):
        print("released")
        return True
talker = Talker.remote()
""",
    )
    # The environment of a cell is set by requests that are no cells, before and after it.
    cell = kernel.run("%%skyrl_python --env X=1\nray.get(talker.release.remote())")
    assert lines(cell.out)[0].endswith("released")


def test_a_cell_without_output_of_workers_waits_for_nothing(kernel: Kernel) -> None:
    code = """
@ray.remote
def silent():
    return 1
ray.get(silent.remote())
"""
    python(kernel, code)
    marks = """
from pathlib import Path
logs = Path(ray._private.worker._global_node.get_logs_dir_path())
sum(log.read_text().count("skyrl_magic") for log in logs.glob("worker-skyrl*"))
"""
    before = python(kernel, marks).result
    python(kernel, code)
    assert python(kernel, marks).result == before


def test_stop_ends_a_cell_that_waits_for_tasks(kernel: Kernel) -> None:
    code = """
@ray.remote
def sleeper():
    print("asleep")
    time.sleep(300)
ref = sleeper.remote()
print("waiting")
ray.get(ref)
"""
    cell = kernel.run(f"%%skyrl_python\n{code}", interrupt_at="waiting")
    assert cell.status == "error"
    assert "KeyboardInterrupt" in cell.error[-1]
    assert python(kernel, "ray.cancel(ref, force=True); 1 + 1").result == "2"
