"""A relay with a real kernel, as the supervisor starts one: Stop at any moment ends the cell and nothing else."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.relay import RelayProcess
from skyrl_magic.agent import kernel_start, paths
from skyrl_magic.core import protocol

DEADLINE_S = 60.0
_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def relay(agent: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """A relay whose kernel is up."""
    folder = tmp_path_factory.mktemp("py")
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE_S)
    arguments = kernel_start.to_arguments(theirs.fileno(), folder, [])
    command = [sys.executable, str(agent), "relay", *arguments]
    pid = kernel_start.fork_relay(command, folder, theirs, folder / "relay.log")
    theirs.close()
    found = RelayProcess(pid, ours)
    try:
        found.wait_for(protocol.RelayReady)
        yield found
    finally:
        ours.close()
        os.waitpid(pid, 0)


def execute(folder: Path, code: str) -> protocol.ExecuteRun:
    """A request to execute ``code``, with its folder made."""
    run_id = f"run{next(_NUMBERS)}"
    run = folder / "runs" / run_id
    run.mkdir(parents=True)
    (run / paths.CELL_FILE).write_text(code)
    return protocol.ExecuteRun(run_id, str(run))


def test_stop_right_behind_the_start_ends_the_cell_and_keeps_the_kernel(relay: RelayProcess, tmp_path: Path) -> None:
    relay.send(execute(tmp_path, "kept = 1"))
    assert relay.wait_for(protocol.ExecuteEnded).exit_code == 0
    for _ in range(30):
        request = execute(tmp_path, "import time; time.sleep(600)")
        relay.send(request)
        relay.send(protocol.SignalRun(0, request.run_id, signal.SIGINT))
        ended = relay.wait_for(protocol.ExecuteEnded)
        assert ended.run_id == request.run_id
        assert ended.exit_code != 0
    request = execute(tmp_path, "print(kept)")
    relay.send(request)
    assert relay.wait_for(protocol.ExecuteEnded).exit_code == 0
    assert Path(request.folder, protocol.STDOUT).read_bytes() == b"1\n"
