"""A loopback server that tells its clients another address than its own: that of a proxy before it.

Usage: ``python -m tests.faults.server STATE_DIR URL``. It is the product's server but for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from skyrl_magic.loopback.daemon import IDLE_EXIT_S, ServerAddress, find_server, hold_lock, stop_server
from skyrl_magic.loopback.layout import Layout
from tests.faults.proxy import Proxy

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def behind(proxy: Proxy, state_dir: Path) -> Iterator[ServerAddress]:
    """A server that is reached through ``proxy`` alone; it ends with its sandboxes afterwards."""
    command = [sys.executable, "-m", "tests.faults.server", str(state_dir), proxy.url]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            address = find_server(state_dir)
            assert address is not None
            proxy.target_port = int(address.url.rpartition(":")[2])
            yield address
        finally:
            stop_server(state_dir, timeout_s=60)


def main(state_dir: Path, url: str) -> None:
    """Serve until the server is ended."""
    from skyrl_magic.loopback.server import LoopbackServer
    from skyrl_magic.loopback.state import ServerState

    ServerState.grpc_url = property(lambda _: url, lambda *_: None)  # type: ignore[assignment]
    layout = Layout(state_dir)
    layout.create()
    hold_lock(layout)

    async def serve() -> None:
        await LoopbackServer(layout, IDLE_EXIT_S).serve(lambda: print("ready", flush=True))  # noqa: T201

    asyncio.run(serve())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
