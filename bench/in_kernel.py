"""What the benchmark runs inside the kernel, where a magic alone cannot do it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from skyrl_magic.core import protocol
from skyrl_magic.core.spec import RunRequest
from skyrl_magic.service.runs import RunService, new_run_id
from skyrl_magic.service.session import Session
from skyrl_magic.ui.magics import SkyRLMagic


class _Silent:
    """A run's sink that shows nothing."""

    settled = True
    flush_due_s: float | None = None

    def feed(self, event: protocol.Message) -> None:
        pass

    def tick(self) -> None:
        pass

    def flush(self) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def message(self, message: protocol.KernelMessage) -> None:
        pass

    def ask(self, prompt: str, *, password: bool) -> str:
        raise EOFError(f"{prompt} ({password=})")


def _run(session: Session) -> int:
    runs, request, sink = RunService(), RunRequest("echo hello"), _Silent()
    watch = runs.start(session, request, new_run_id(), sink)
    return runs.follow(session, request, watch, sink).exit_code


def run_at_once(magics: SkyRLMagic, count: int) -> float:
    """Start ``count`` runs at once in the session of the notebook's last cell; seconds until the last has ended.

    Raises:
        RuntimeError: one failed.
    """
    session = next(reversed(magics.cells.notebook.runs.values()))
    with ThreadPoolExecutor(count) as pool:
        began = time.perf_counter()
        codes = list(pool.map(_run, [session] * count))
        took_s = time.perf_counter() - began
    if any(codes):
        raise RuntimeError(f"exit codes {codes}")
    return took_s
