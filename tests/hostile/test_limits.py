"""A sandbox has no more processes and memory than it was given, where this account can make control groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import modal
import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from skyrl_magic.loopback.runtime import cgroup
from tests.loopback.making import SandboxMaker, run, until

MEMORY_MIB = 256
BOMB = """
import os, signal
children = []
try:
    while len(children) < 200:
        child = os.fork()
        if not child:
            signal.pause()
        children.append(child)
except BlockingIOError:
    pass
for child in children:
    os.kill(child, signal.SIGKILL)
print(len(children))
"""


@pytest.fixture
def sandbox(modal_client: modal.Client) -> Iterator[modal.Sandbox]:
    maker = SandboxMaker(modal_client, None)
    yield maker(memory=(128, MEMORY_MIB))
    maker.close()


def groups(sandbox: modal.Sandbox) -> list[Path]:
    return [path for path in cgroup.ROOT.rglob(f"{cgroup.PREFIX}{sandbox.object_id}") if path.is_dir()]


def test_processes_and_memory_are_bounded(sandbox: modal.Sandbox, loopback_server: ServerAddress) -> None:
    found = groups(sandbox)
    if not found:
        log = loopback_server.state_dir / "sandboxes" / sandbox.object_id / "keeper.log"
        assert "have no bound of their own here: " in log.read_text("utf-8")
        pytest.skip("no control groups can be made here")
    bounds = [path / "pids.max" for path in found if (path / "pids.max").exists()]
    assert [int(path.read_text("ascii")) >= cgroup.TASKS for path in bounds] == [True]
    bounds[0].write_text("60", "ascii")  # so that few show it
    started = int(run(sandbox, f"python3 -c '{BOMB}'")[1])
    assert 0 < started < 60
    bounds[0].write_text("max", "ascii")
    eat = f"python3 -c 'x = bytearray({2 * MEMORY_MIB} << 20)'"
    assert run(sandbox, eat)[0] in (1, 137)
    assert run(sandbox, "python3 -c 'x = bytearray(64 << 20)'")[0] == 0
    sandbox.terminate()
    until(lambda: not groups(sandbox))
