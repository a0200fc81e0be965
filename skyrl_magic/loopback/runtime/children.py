"""Child processes whose end is an event of the loop."""

from __future__ import annotations

import asyncio
import os
import subprocess

_watched: dict[int, subprocess.Popen[bytes]] = {}


def watch(process: subprocess.Popen[bytes]) -> asyncio.Future[int]:
    """A future of the return code (negative for a signal); the child is reaped also if nobody asks for it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()
    descriptor = os.pidfd_open(process.pid)
    _watched[descriptor] = process

    def on_exit() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        del _watched[descriptor]
        code = process.wait()
        if not future.done():
            future.set_result(code)

    loop.add_reader(descriptor, on_exit)
    return future
