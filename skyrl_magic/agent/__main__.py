"""The zipapp's commands: ``supervise``, ``attach``, and for Python cells ``relay`` and ``kernel``."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any, Callable, List, Optional


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
    relay = commands.add_parser("relay", help="run a Python kernel for the supervisor")
    relay.add_argument("--control-fd", type=int, required=True)
    relay.add_argument("--folder", type=Path, required=True)
    relay.add_argument("--cluster-python", default="", help="refuse another Ray than this interpreter's")
    kernel = commands.add_parser("kernel", help="be that kernel")
    kernel.add_argument("--connection-file", required=True)
    for command in (relay, kernel):
        command.add_argument("--paths", type=json.loads, default=[], help="folders for sys.path, as JSON")
    kernel.add_argument("--packages", type=json.loads, default=[], help="a folder with ipykernel, as JSON")
    options = parser.parse_args(arguments)
    # Each command reads its own modules only: in a zipapp they are compiled at every start.
    if options.command == "attach":
        from skyrl_magic.agent.attach import BOOT_TIMEOUT_S, PING_TIMEOUT_S, run_attach

        timeouts = (options.ping_timeout or PING_TIMEOUT_S, options.boot_timeout or BOOT_TIMEOUT_S)
        return run_attach(options.state_dir, *timeouts)
    if options.command == "relay":
        from skyrl_magic.agent.kernel_start import run_relay

        return run_relay(options.control_fd, options.folder, options.paths, options.cluster_python)
    if options.command == "kernel":
        sys.path += options.packages
        from skyrl_magic.agent.kernel_main import run_kernel

        run_kernel(options.connection_file, options.paths)
        return 0
    from skyrl_magic.agent.config import Config
    from skyrl_magic.agent.supervisor import Supervisor

    try:
        config = Config.from_json(options.config)
    except (ValueError, TypeError) as error:
        parser.error(f"--config: {error}")
    return Supervisor(config, _own_hash()).run()


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
