"""The zipapp's commands: ``supervise --config JSON`` and ``attach --state-dir DIR``."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, List, Optional

if TYPE_CHECKING:
    from skyrl_magic.agent.config import Config


def main(arguments: Optional[List[str]] = None) -> int:
    """Run one of the agent's commands; returns the exit code."""
    parser = argparse.ArgumentParser(prog="agent.pyz")
    commands = parser.add_subparsers(dest="command", required=True)
    supervise = commands.add_parser("supervise", help="be the sandbox's main process")
    supervise.add_argument("--config", required=True, help="the session, as JSON")
    attach = commands.add_parser("attach", help="serve one client on stdin and stdout")
    attach.add_argument("--state-dir", type=Path, required=True)
    attach.add_argument("--ping-timeout", type=float, help="seconds")
    attach.add_argument("--boot-timeout", type=float, help="seconds to wait for a session that is still starting")
    options = parser.parse_args(arguments)
    # Each command reads its own modules only: in a zipapp they are compiled at every start.
    if options.command == "attach":
        from skyrl_magic.agent.attach import BOOT_TIMEOUT_S, PING_TIMEOUT_S, run_attach

        timeouts = (options.ping_timeout or PING_TIMEOUT_S, options.boot_timeout or BOOT_TIMEOUT_S)
        return run_attach(options.state_dir, *timeouts)
    from skyrl_magic.agent.config import Config

    try:
        config = Config.from_json(options.config)
    except (ValueError, TypeError) as error:
        parser.error(f"--config: {error}")
    return _supervise(config)


def _supervise(config: Config) -> int:
    """Ray begins before the rest is read: everything else is done while it starts."""
    from skyrl_magic.agent import paths, procs
    from skyrl_magic.agent.ray_start import RayStart

    procs.become_subreaper()  # already so as PID 1; elsewhere this finds what a run, or Ray's start, leaves behind
    paths.make_state_dir(config.state)
    ray = RayStart(config.state / paths.RAY_LOG)
    if config.ray:
        ray.start()
    from skyrl_magic.agent.supervisor import Supervisor

    return Supervisor(config, _own_hash(), ray).run()


def _own_hash() -> str:
    """SHA-256 of the zipapp that runs, empty when it is run from a source tree."""
    archive = Path(sys.argv[0])
    return _sha256()(archive.read_bytes()).hexdigest() if archive.suffix == ".pyz" else ""


def _sha256() -> Callable[[bytes], Any]:
    """CPython's own SHA-256 where it is built in: ``hashlib`` loads OpenSSL, 4 MB for as long as the session lives."""
    for name in ("_sha2", "_sha256"):  # since 3.12, before it
        with contextlib.suppress(ImportError):
            found: Callable[[bytes], Any] = importlib.import_module(name).sha256
            return found
    import hashlib

    return hashlib.sha256


if __name__ == "__main__":
    sys.exit(main())
