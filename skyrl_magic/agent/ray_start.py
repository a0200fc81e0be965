"""Starts Ray's head beside everything else, in a child of the supervisor."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import itertools
import os
import signal
import sys
import time
from pathlib import Path
from typing import Callable, Dict, FrozenSet, List, Optional, Sequence

from skyrl_magic.agent import procs
from skyrl_magic.agent.ray_words import session_logs, why_ended, why_not_started

OFF = "off"
STARTING = "starting"
READY = "ready"
FAILED = "failed"

#: A file that is locked during the start: two starts at once on a small machine time out, because Ray gives its node
#: a fixed 30 s to come up.
LOCK_VARIABLE = "SKYRL_RAY_START_LOCK"
#: No turn is waited for longer, in seconds: who holds that file may be anybody's program in another session. A start
#: takes 72 s on two busy cores.
_TURN_S = 180.0
#: In the environment of all that a start leaves running, so that the next one can end it.
MARK_VARIABLE = "SKYRL_RAY_STARTED_BY"
#: What runs find Ray by. It is "auto", as in SkyRL's own script, and no address: with one a driver waits for a cluster
#: that is not there, without end (measured: still after 100 s), where "auto" fails at once. Runs wait for Ray anyway.
ADDRESS = {"RAY_ADDRESS": "auto"}
#: What to do where it is not there.
ADVICE = "%skyrl_restart --ray tries again; cells that need no Ray go on"
#: The first on a slow machine reads Ray from the disk; each next one is quicker.
_ATTEMPTS = 3
#: How long Ray's own server may take to say its port, which is Ray's to wait for; 30 where nobody says. In seconds.
_GCS_WAIT = {"RAY_gcs_server_port_wait_time_s": "120"}
#: After so long a start is given up, in seconds. Cold starts were measured at 10 to 36 s.
_START_TIMEOUT_S = 180.0
#: How long Ray's monitor is waited for, and how often it is looked for; 3 s were measured on a machine under load.
_STATUS_TIMEOUT_S = 5.0
_LOOK_S = 0.05
#: The monitor writes this line, then what `ray status` prints. (``ray.autoscaler._private.monitor``, Ray 2.60)
_STATUS_LINE = b"Autoscaler status"
#: How coarse the times of files may be, in seconds.
_CLOCK_S = 2.0
#: Without these there is no cluster; `ray start` leaves them to the supervisor, as its children.
_VITAL = ("gcs_server", "raylet")
_COMMAND = ("ray", "start", "--head", "--disable-usage-stats")


def ray_address() -> Dict[str, str]:
    """Where what this process starts now finds Ray, as environment variables; none where it does not."""
    return {name: os.environ[name] for name in ADDRESS if name in os.environ}


class RayStart:
    """The state of the session's Ray: ``off``, ``starting``, ``ready`` or ``failed``.

    Args:
        log: where the start's own output goes.
        packages: folders from which the cluster's tasks can import, as Python cells can.
        size: says which options its size has (``agent.ray_size``).
    """

    def __init__(self, log: Path, packages: Sequence[str] = (), size: Callable[[], Sequence[str]] = lambda: ()) -> None:
        self._log = log
        self._packages = packages
        self._size = size
        self._pid = 0
        self._numbers = itertools.count(1)
        self._number = 0
        self._log_from = 0
        self._began = 0.0
        self._started = 0.0
        self._seconds: Optional[float] = None
        self._vital: Dict[int, str] = {}
        self.state = OFF
        self.detail = ""
        """Why it did not start, or has ended; empty where neither is so."""
        self.problem = ""
        """The same as everybody is told of it, with what to do."""

    @property
    def seconds(self) -> float:
        """How long Ray took to start, or has been starting."""
        if self._seconds is not None:
            return self._seconds
        return time.monotonic() - self._started if self.state == STARTING else 0.0

    @property
    def settled(self) -> bool:
        """Whether runs need not wait any more."""
        return self.state != STARTING

    @property
    def about(self) -> str:
        """What stands for this start in notices."""
        return f"ray {self._number}"

    def start(self) -> None:
        """Begin; the end comes through :meth:`reaped`. What an earlier start has left is ended."""
        self._end_leftovers()
        self._number = next(self._numbers)
        self._started, self._seconds = time.monotonic(), None
        self.detail = self.problem = ""
        self._began = time.time() - _CLOCK_S
        with contextlib.suppress(OSError):
            self._log_from = self._log.stat().st_size
        if procs.which(_COMMAND[0]) is None:
            self._seconds = 0.0
            self._failed("there is no 'ray' on PATH in this container")
            return
        self.state = STARTING
        self._pid = os.fork()
        if not self._pid:
            _child(self._log, self._packages, self._size)

    def set_address(self) -> None:
        """Let runs and kernels find Ray; where its start failed, their ``ray.init()`` must look for none."""
        if self.state == FAILED:
            for name in ADDRESS:
                os.environ.pop(name, None)
        else:
            os.environ.update(ADDRESS)

    def reaped(self, pid: int, status: int) -> bool:
        """Take the end of process ``pid`` if it is the starter's."""
        if not self._pid or pid != self._pid:
            return False
        self._pid = 0
        self._seconds = time.monotonic() - self._started
        self.state = READY if procs.exit_code(status) == 0 else FAILED
        if self.state == FAILED:
            words = why_not_started(self._log, self._log_from, session_logs(self._began))
            self._failed(words or f"'ray start' ended with {procs.exit_code(status)}")
        else:
            names = {pid: procs.name_of(pid) for pid in procs.descendants(os.getpid())}
            self._vital = {pid: name for pid, name in names.items() if name in _VITAL}
        return True

    def lost(self, pid: int, status: int) -> str:
        """The :attr:`problem` where ``pid`` was a part without which there is no cluster; else empty."""
        name = self._vital.pop(pid, "")
        if not name:
            return ""
        self._vital.clear()  # the rest follows
        how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"code {os.WEXITSTATUS(status)}"
        words = why_ended(name, session_logs(self._began))
        self.state, self.detail = FAILED, f"Ray's {name} has ended ({how})" + (f": {words}" if words else "")
        self._number = next(self._numbers)  # another thing to be told
        self.problem = f"{self.detail}; what uses Ray fails in this session: {ADVICE}"
        return self.problem

    def _failed(self, detail: str) -> None:
        self.state, self.detail = FAILED, detail
        self.problem = f"Ray did not start: {detail}; {ADVICE}"

    def _end_leftovers(self) -> None:
        """Kill what an earlier start has left: daemons, workers and their tasks, but no driver."""
        if not self._number:
            return
        self._vital.clear()
        mark = f"{MARK_VARIABLE}={os.getpid()}".encode()
        for pid in procs.descendants(os.getpid()):
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    os.kill(pid, signal.SIGKILL)


def _child(log: Path, packages: Sequence[str], size: Callable[[], Sequence[str]]) -> None:
    """The forked starter: tries, and cleans up what a failed try left."""
    supervisor = os.getppid()
    code = 1
    try:
        gc.disable()  # the supervisor's sockets must not be collected here
        procs.default_signals()
        procs.close_all_but(())
        os.setsid()
        procs.become_subreaper()
        began = time.time()
        with log.open("ab") as output, _lock():
            for _ in range(_ATTEMPTS):
                if _attempt(output.fileno(), packages, size(), supervisor):
                    code = 0
                    break
                procs.kill_tree(os.getpid())
        if not code:
            _await_status(began)
    finally:
        os._exit(code)


def _attempt(output: int, packages: Sequence[str], size: Sequence[str], supervisor: int) -> bool:
    import subprocess  # in the starter alone

    # RAY_ADDRESS names the cluster that is to be started; it must not lead the start to look for one.
    env = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", LOCK_VARIABLE)}
    env.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    env = {**_GCS_WAIT, **env, MARK_VARIABLE: str(supervisor)}
    env["PYTHONPATH"] = os.pathsep.join([*filter(None, [env.get("PYTHONPATH", "")]), *_harmless(packages)])
    try:
        done = subprocess.run(
            [*_COMMAND, *size],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=env,
            check=False,
            timeout=_START_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        os.write(output, f"{error}\n".encode("utf-8", "backslashreplace"))
        return False
    return done.returncode == 0


def _await_status(began: float) -> None:
    """Wait until ``ray status`` has something to say: Ray's monitor comes up after ``ray start`` has returned.

    Ray tells nobody, but for the monitor's log, and the file may not be there yet. A Ray that keeps its files elsewhere
    is not waited for.

    Args:
        began: when the start began, in seconds since the epoch.
    """
    logs = session_logs(began - _CLOCK_S)
    deadline = time.monotonic() + _STATUS_TIMEOUT_S
    with contextlib.suppress(OSError):
        while logs is not None and time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):
                if _STATUS_LINE in (logs / "monitor.log").read_bytes():
                    return
            time.sleep(_LOOK_S)


def _harmless(packages: Sequence[str]) -> List[str]:
    """Those folders that hide no module of the standard library: PYTHONPATH comes before it, for Ray itself too."""
    standard: FrozenSet[str] = getattr(sys, "stdlib_module_names", frozenset())
    return [path for path in packages if not any(_module(name) in standard for name in _names(path))]


def _names(path: str) -> List[str]:
    try:
        return os.listdir(path)  # noqa: PTH208  (a list of names is what is wanted)
    except OSError:
        return []


def _module(name: str) -> str:
    return name.partition(".")[0] if name.endswith((".py", ".so")) or "." not in name else ""


def _lock() -> contextlib.AbstractContextManager[object]:
    path = os.environ.get(LOCK_VARIABLE)
    if not path:
        return contextlib.nullcontext()
    file = Path(path).open("ab")  # noqa: SIM115  (the caller's with closes it)
    until_s = time.monotonic() + _TURN_S
    while time.monotonic() < until_s:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        time.sleep(_LOOK_S)
    return file
