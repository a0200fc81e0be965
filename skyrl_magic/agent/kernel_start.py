"""What stands before a Python kernel: which interpreter, ipykernel in it, and the cluster's version of Ray."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import List, Optional, Sequence

from skyrl_magic.agent import procs
from skyrl_magic.agent.paths import package_folders
from skyrl_magic.core import protocol

_RAY_VERSION = "import importlib.metadata as m; print(m.version('ray'))"
_INSTALL_TIMEOUT_S = 300.0
_LAST_WORDS_BYTES = 4096


def interpreter() -> Optional[str]:
    """The Python that runs the cluster's Ray, else the one on PATH; None where there is none."""
    ray = procs.which("ray")
    if ray is not None:
        with open(ray, "rb") as script:  # noqa: PTH123  (one line of it)
            head = script.readline(4096)
        if head.startswith(b"#!"):
            words = os.fsdecode(head[2:]).split()
            if words and Path(words[0]).name.startswith("python") and os.access(words[0], os.X_OK):
                return words[0]
        beside = Path(ray).with_name("python")
        if os.access(beside, os.X_OK):
            return str(beside)
    return procs.which("python") or procs.which("python3")


def package_paths(checkout: Path, workdir: Path) -> List[str]:
    """Folders from which a cell can import the checkout's packages, the working directory's first."""
    return list(dict.fromkeys([str(workdir), *package_folders(checkout)]))


def relay_command(python: str, uv: str, arguments: Sequence[str]) -> List[str]:
    """The command of a relay: in ``python``, or with ``uv`` in the project's environment beside ipykernel."""
    archive = sys.argv[0]
    if not uv:
        return [python, archive, "relay", *arguments]
    options = ["--cluster-python", python]
    return ["uv", "run", *shlex.split(uv), "--with", "ipykernel", "python", archive, "relay", *arguments, *options]


def run_relay(control_fd: int, folder: Path, paths: List[str], cluster_python: str) -> int:
    """Be the relay of a new kernel; returns the exit code."""
    procs.become_subreaper()
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    packages: List[str] = []
    detail = ray_conflict(cluster_python) if cluster_python else ""
    if not detail and importlib.util.find_spec("ipykernel") is None:
        packages = [str(folder / "packages")]
        detail = supply(packages[0])
        sys.path += packages
    if detail:
        control.sendall(protocol.encode(protocol.RelayFailed(detail)))
        return 1
    from skyrl_magic.agent.relay import Relay

    return Relay(control, folder, paths, packages).run()


def ray_conflict(cluster_python: str) -> str:
    """A line where this interpreter's Ray is not the cluster's, which a driver of another version cannot join."""
    found = []
    for python in (sys.executable, cluster_python):
        done = subprocess.run([python, "-c", _RAY_VERSION], capture_output=True, text=True, check=False)
        found.append(done.stdout.strip())
    ours, clusters = found
    if not ours or not clusters or ours == clusters:
        return ""
    return f"the project's environment has Ray {ours} and the session's cluster runs {clusters}: they cannot be joined"


def supply(target: str) -> str:
    """Install ipykernel into a folder of its own, away from the user's environment; a line where that fails."""
    commands = [
        ["uv", "pip", "install", "--quiet", "--python", sys.executable, "--target", target, "ipykernel"],
        [sys.executable, "-m", "pip", "install", "--quiet", "--target", target, "ipykernel"],
    ]
    last = "there is neither uv nor pip"
    for command in commands:
        if procs.which(command[0]) is None:
            continue
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False, timeout=_INSTALL_TIMEOUT_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            last = str(error)
            continue
        if done.returncode == 0:
            return ""
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit {done.returncode}")
    return f"{sys.executable} has no ipykernel, and it cannot be supplied: {last.strip()}"


def fork_relay(command: Sequence[str], workdir: Path, control: socket.socket, log: Path) -> int:
    """Start a relay that has the other end of ``control``; returns its process id. The caller is single-threaded."""
    pid = os.fork()
    if pid:
        return pid
    try:
        procs.default_signals()
        procs.close_all_but({control.fileno()})
        os.setsid()
        control.set_inheritable(True)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for fd, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(fd, target)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.chdir(workdir)
        os.execvp(command[0], list(command))  # noqa: S606  (no shell is wanted)
    except OSError as error:
        detail = f"{command[0]}: {error.strerror}"
        control.sendall(protocol.encode(protocol.RelayFailed(detail)))
    finally:
        os._exit(127)


def last_words(log: Path) -> str:
    """The last line of what a relay, or ``uv`` before it, has printed; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LAST_WORDS_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def to_arguments(control_fd: int, folder: Path, paths: Sequence[str]) -> List[str]:
    """The relay's arguments."""
    return ["--control-fd", str(control_fd), "--folder", str(folder), "--paths", json.dumps(list(paths))]
