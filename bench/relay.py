"""What the Python kernel's relay costs: its way for a message, and its memory under a flood."""

from __future__ import annotations

import itertools
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil
from jupyter_client.blocking.client import BlockingKernelClient

from bench.rows import MS, Row, Series, amount, interleaved, reference
from bench.world import LINE_BYTES, World
from skyrl_magic.agent import kernel_start
from skyrl_magic.agent.build import build_agent
from skyrl_magic.core import protocol

M = TypeVar("M", bound=protocol.Message)
_ADDS_S = 0.003
_FLOOD_BYTES = 200_000_000
_FLAT_BYTES = 30_000_000
_QUESTION = {"code": "1+1"}


@dataclass
class RelayProcess:
    """A relay with its kernel, as the supervisor starts one; this process is at the supervisor's end."""

    pid: int
    control: socket.socket
    decoder: protocol.FrameDecoder = field(default_factory=protocol.FrameDecoder)
    waiting: list[protocol.Message] = field(default_factory=list)

    def send(self, message: protocol.Message) -> None:
        """Send a frame."""
        self.control.sendall(protocol.encode(message))

    def wait_for(self, kind: type[M]) -> M:
        """Take frames until one of this kind comes."""
        while True:
            while self.waiting:
                message = self.waiting.pop(0)
                if isinstance(message, kind):
                    return message
            self.waiting += self.decoder.feed(self.control.recv(1 << 20))


@contextmanager
def _started(world: World) -> Iterator[tuple[RelayProcess, BlockingKernelClient]]:
    """A relay, and a plain Jupyter client of the same kernel."""
    folder = world.folder / "relay"
    folder.mkdir()
    agent = build_agent(folder / "agent.pyz")
    ours, theirs = socket.socketpair()
    arguments = kernel_start.to_arguments(theirs.fileno(), folder, [])
    log = folder / "relay.log"
    pid = kernel_start.fork_relay([sys.executable, str(agent), "relay", *arguments], folder, theirs, log)
    theirs.close()
    relay = RelayProcess(pid, ours)
    relay.wait_for(protocol.RelayReady)
    direct = BlockingKernelClient(connection_file=str(folder / "kernel.json"))
    direct.load_connection_file()
    direct.start_channels()
    try:
        direct.wait_for_ready(timeout=60)
        yield relay, direct
    finally:
        direct.stop_channels()
        ours.close()
        os.waitpid(pid, 0)


def relay_rows(world: World) -> list[Row]:
    """The rows of this module."""
    with _started(world) as (relay, direct):
        return [*_way(world, relay, direct), *([] if world.quick else _memory(world, relay))]


def _way(world: World, relay: RelayProcess, direct: BlockingKernelClient) -> list[Row]:
    numbers = itertools.count(1)

    def through() -> float:
        began = time.perf_counter()
        relay.send(protocol.KernelRequest(next(numbers), "is_complete_request", _QUESTION))
        relay.wait_for(protocol.KernelReply)
        return time.perf_counter() - began

    def past() -> float:
        began = time.perf_counter()
        direct.is_complete(_QUESTION["code"])
        direct.get_shell_msg(timeout=60)
        return time.perf_counter() - began

    series = interleaved(world.rounds(100), {"through": through, "past": past}, MS)
    added = Series(tuple((with_relay - series["past"].median) / 2 for with_relay in series["through"].samples), MS)
    name = "the relay adds to a message (half of what a round trip takes more than on the kernel's own socket)"
    return [
        Row(name, amount(added.median, MS), added, f"≤ {amount(_ADDS_S, MS)}", added.median <= _ADDS_S),
        reference("… a round trip on the kernel's own socket", series["past"]),
    ]


def _memory(world: World, relay: RelayProcess) -> list[Row]:
    process = psutil.Process(relay.pid)
    before = process.memory_info().rss
    peak = Path(f"/proc/{relay.pid}/clear_refs")
    peak.write_text("5", encoding="ascii")
    run = world.folder / "relay" / "run"
    run.mkdir()
    lines = _FLOOD_BYTES // LINE_BYTES
    (run / "cell").write_text(f"line = '.' * {LINE_BYTES - 1}\nfor _ in range({lines}): print(line)")
    relay.send(protocol.ExecuteRun("run", str(run)))
    if relay.wait_for(protocol.ExecuteEnded).exit_code or (run / "stdout").stat().st_size != _FLOOD_BYTES:
        raise RuntimeError("the flood is not whole")
    status = Path(f"/proc/{relay.pid}/status").read_text(encoding="ascii").splitlines()
    highest = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    change = Series((float(highest - before),), "MB")
    what = f"{_FLOOD_BYTES // 1_000_000} MB of output"
    return [
        Row(f"the relay's memory, at its peak in {what}, against before", f"{change.median / 1e6:+.3g} MB", change,
            "flat (± 30 MB)", change.median <= _FLAT_BYTES),
    ]  # fmt: skip
