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
    # An exec's process is the server's own child, by nsenter.
    found |= set(psutil.Process(server.pid).children(recursive=True))
    return [p for p in found if {"/opt/skyrl_magic/agent.pyz", word} <= _words(p) and "nsenter" not in _words(p)]


def supervisors_of(server: ServerAddress) -> list[psutil.Process]:
    """The supervisors of this server's sandboxes: each is the child of a first process, which watches it."""
    # bubblewrap's own processes name the command too, and the shims are forks of the supervisor.
    found = [process for process in processes_of(server, "supervise") if _inner_pid(process) == 1]
    return [child for first in found for child in first.children()]


def _inner_pid(process: psutil.Process) -> int:
    """Its id in its sandbox."""
    status = Path(f"/proc/{process.pid}/status").read_text("utf-8")
    return next(int(line.split()[-1]) for line in status.splitlines() if line.startswith("NSpid:"))


def _words(process: psutil.Process) -> set[str]:
    """Its command's words; none where it has just ended, as the cells' short sleeps do."""
    with suppress(psutil.NoSuchProcess):
        return {Path(word).name if word.endswith("nsenter") else word for word in process.cmdline()}
    return set()


def _keeps(words: list[str], server: ServerAddress) -> bool:
    return words[-1].startswith(f"{server.state_dir}/sandboxes/")


def kill(server: ServerAddress, word: str) -> None:
    found = supervisors_of(server) if word == "supervise" else processes_of(server, word)
    assert found
    for process in found:
        with suppress(psutil.NoSuchProcess):  # it ended with one that was killed before it
            process.kill()
