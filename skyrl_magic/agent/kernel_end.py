"""How the Python kernel's process ends when it is asked to: what its cells have started goes first, and soon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from typing import Iterator, Set

from ipykernel.ipkernel import IPythonKernel

from skyrl_magic.agent import procs

#: How long the processes of cells get from SIGTERM to their end, in seconds; part of ``kernels.EXIT_S``. What is left
#: after that is there while ``atexit`` handlers run, and is killed with the kernel's process group.
_PROCESSES_S = 2.0
_POLL_S = 0.02


class Kernel(IPythonKernel):
    """An ipykernel that shuts down in seconds also where cells have left processes.

    The original waits half a minute for processes that ended at once: nobody reaps them before ``atexit``, and it takes
    those for alive. Nobody lets a kernel shut down for so long, so it is killed, and no ``atexit`` handler runs.
    """

    async def _progressively_terminate_all_children(self) -> None:
        until = time.monotonic() + _PROCESSES_S
        told: Set[int] = set()
        while True:
            pids = set(_processes())
            for pid in pids - told:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGTERM)
            told |= pids
            if not pids or time.monotonic() >= until:
                return
            await asyncio.sleep(_POLL_S)


def _processes() -> Iterator[int]:
    """What cells have started, but for what has left the kernel's process group, and for daemons of multiprocessing.

    Those its own ``atexit`` handler ends, and waits for ever where the workers of a pool have died with its locks.
    """
    group = os.getpgrp()
    multiprocessing = sys.modules.get("multiprocessing")
    children = multiprocessing.active_children() if multiprocessing is not None else []
    daemons = {child.pid for child in children if child.daemon}
    for pid in procs.descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            if pid not in daemons and os.getpgid(pid) == group:
                yield pid
