"""``nvidia-smi``, asked without waiting for it; and whether the GPUs that are there are those that were asked for."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
from typing import Callable, List

from skyrl_magic.agent import procs

#: ``nvidia-smi`` takes about a second, and hangs where the driver does. In seconds.
TIMEOUT_S = 10.0
_PROGRAM = "nvidia-smi"
_MAX_BYTES = 4096


class NvidiaSmi:
    """Asks for one field of all GPUs, one at a time, and never waits for it.

    Args:
        selector: of the supervisor.
        field: what is asked for, as ``--query-gpu`` takes it.
        answered: hears the answer's lines.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        field: str,
        answered: Callable[[List[str]], None],
        clock: Callable[[], float],
    ) -> None:
        self._selector = selector
        self._command = (_PROGRAM, f"--query-gpu={field}", "--format=csv,noheader,nounits")
        self._answered = answered
        self._clock = clock
        self._pid = 0
        self._output = -1
        self._heard = b""
        self.kill_at = 0.0

    @property
    def asking(self) -> bool:
        """Whether an answer is awaited; a child that cannot even be killed is not waited for."""
        return self._output >= 0

    def ask(self) -> None:
        """Begin, unless there is no such program or the last one has not ended, or its answer was not read yet."""
        if self._pid or self.asking or procs.which(_PROGRAM) is None:
            return
        self._output, write_end = os.pipe()
        actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, write_end, 1)]
        actions.append((os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0))
        try:
            self._pid = os.posix_spawnp(_PROGRAM, self._command, os.environ, file_actions=actions)
        except OSError:
            os.close(self._output)
            self._output = -1
            return
        finally:
            os.close(write_end)
        self._heard, self.kill_at = b"", self._clock() + TIMEOUT_S
        os.set_blocking(self._output, False)
        self._selector.register(self._output, selectors.EVENT_READ, lambda _: self._read())

    def turn(self) -> None:
        """Kill one that hangs."""
        if self.asking and self._clock() >= self.kill_at:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._close()

    def reaped(self, pid: int) -> bool:
        """Take the end of process ``pid`` if it is ours."""
        if not pid or pid != self._pid:
            return False
        self._pid = 0
        return True

    def _read(self) -> None:
        try:
            data = os.read(self._output, _MAX_BYTES)
        except BlockingIOError:
            return
        self._heard += data
        if data and len(self._heard) < _MAX_BYTES:
            return
        self._close()
        self._answered(self._heard.decode("utf-8", "replace").splitlines())

    def _close(self) -> None:
        self._selector.unregister(self._output)
        os.close(self._output)
        self._output = -1


def difference(asked: str, names: List[str]) -> str:
    """What is to be said of GPUs that are not those that were asked for; empty where they are.

    Args:
        asked: as a magic line has it: ``H100:2``; empty or ``none`` for no GPU.
        names: what ``nvidia-smi`` calls the ones that are there, such as ``NVIDIA H100 80GB HBM3``.
    """
    kind, _, count = asked.partition(":")
    found = [name.strip() for name in names if re.search(r"[A-Z]+\d", name)]
    if kind in ("", "none") or not found:
        return ""
    wrong = [name for name in found if not _is_of(kind, name)]
    number = int(count) if count.isdigit() else 1
    if wrong:
        return f"--gpu {asked}: the container has {_counted(found)}"
    return "" if len(found) == number else f"--gpu {asked}: the container shows {len(found)} of {number}"


def _is_of(kind: str, name: str) -> bool:
    """Whether a GPU of this name is what was asked for: each word of the kind stands in it (``A100``, ``80GB``)."""
    words = set(re.split(r"[^A-Z0-9]+", name.upper()))
    if kind == "B200+":
        return bool(words & {"B200", "B300"})
    wanted = kind.upper().rstrip("!").split("-")
    return all(word in words or f"{word}G" in words for word in wanted)


def _counted(names: List[str]) -> str:
    kinds = sorted(set(names), key=names.index)
    return ", ".join(f"{names.count(kind)} x {kind}" if names.count(kind) > 1 else kind for kind in kinds)
