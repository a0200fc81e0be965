"""The agent's processes in the suite's own sandboxes, for tests that end them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

from skyrl_magic.loopback.daemon import ServerAddress


def processes_of(server: ServerAddress, word: str) -> list[psutil.Process]:
    """The agent's processes of this kind (``attach``, ``supervise``) in the sandboxes of this server alone."""
    keepers = [p for p in psutil.process_iter(["cmdline"]) if _keeps(p.info["cmdline"] or [""], server)]
    found = {child for keeper in keepers for child in keeper.children(recursive=True)}
    # An exec's process is a grandchild of the server: its child stays outside of the sandbox's process namespace.
    found |= set(psutil.Process(server.pid).children(recursive=True))
    return [p for p in found if {"/opt/skyrl_magic/agent.pyz", word} <= _words(p) and len(_pids(p)) > 1]


def supervisors_of(server: ServerAddress) -> list[psutil.Process]:
    """The supervisors of this server's sandboxes: each is the child of a first process, which watches it."""
    # bubblewrap's own processes name the command too, and the shims are forks of the supervisor.
    found = [process for process in processes_of(server, "supervise") if _inner_pid(process) == 1]
    return [child for first in found for child in first.children()]


def _inner_pid(process: psutil.Process) -> int:
    """Its id in its sandbox."""
    return _pids(process)[-1]


def _pids(process: psutil.Process) -> list[int]:
    """Its ids, in the machine first and in its sandbox last; none where it has just ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text("utf-8").splitlines():
            if line.startswith("NSpid:"):
                return [int(word) for word in line.split()[1:]]
    return [0]


def _words(process: psutil.Process) -> set[str]:
    """Its command's words; none where it has just ended, as the cells' short sleeps do."""
    with suppress(psutil.NoSuchProcess):
        return set(process.cmdline())
    return set()


def _keeps(words: list[str], server: ServerAddress) -> bool:
    return words[-1].startswith(f"{server.state_dir}/sandboxes/")


def kill(server: ServerAddress, word: str) -> None:
    found = supervisors_of(server) if word == "supervise" else processes_of(server, word)
    assert found
    for process in found:
        with suppress(psutil.NoSuchProcess):  # it ended with one that was killed before it
            process.kill()
