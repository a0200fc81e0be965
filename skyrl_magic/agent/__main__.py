"""The zipapp's commands: ``supervise``, ``attach``, and for Python cells ``relay`` and ``kernel``."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, List, Optional

if TYPE_CHECKING:
    from skyrl_magic.agent.config import Config

_USAGE = (
    "usage: agent.pyz supervise --config JSON\n"
    "       agent.pyz attach --state-dir DIR [--ping-timeout SECONDS] [--boot-timeout SECONDS]\n"
    "       agent.pyz relay --control-fd FD --folder DIR [--paths JSON] [--cluster-python PYTHON]\n"
    "       agent.pyz kernel --connection-file FILE [--paths JSON] [--packages JSON]"
)
_EXIT_USAGE = 2


def main(arguments: Optional[List[str]] = None) -> int:
    """Run one of the agent's commands; returns the exit code."""
    command, *words = (sys.argv[1:] if arguments is None else arguments) or [""]
    options = dict(zip(words[::2], words[1::2]))  # noqa: B905  (Python 3.9 has no strict)
    # Each command reads its own modules only: in a zipapp they are compiled at every start. So no argparse either.
    if command == "attach" and "--state-dir" in options:
        from skyrl_magic.agent.attach import BOOT_TIMEOUT_S, PING_TIMEOUT_S, run_attach

        timeouts_s = (options.get("--ping-timeout", PING_TIMEOUT_S), options.get("--boot-timeout", BOOT_TIMEOUT_S))
        return run_attach(Path(options["--state-dir"]), *map(float, timeouts_s))
    if command == "relay" and {"--control-fd", "--folder"} <= options.keys():
        from skyrl_magic.agent.kernel_start import run_relay

        paths = json.loads(options.get("--paths", "[]"))
        python = options.get("--cluster-python", "")
        return run_relay(int(options["--control-fd"]), Path(options["--folder"]), paths, python)
    if command == "kernel" and "--connection-file" in options:
        sys.path += json.loads(options.get("--packages", "[]"))
        from skyrl_magic.agent.kernel_main import run_kernel

        run_kernel(options["--connection-file"], json.loads(options.get("--paths", "[]")))
        return 0
    if command != "supervise" or "--config" not in options:
        return _refuse(_USAGE)
    from skyrl_magic.agent.config import Config

    try:
        config = Config.from_json(options["--config"])
    except (ValueError, TypeError) as error:
        return _refuse(f"agent.pyz: --config: {error}")
    return _supervise(config)


def _refuse(line: str) -> int:
    sys.stderr.write(f"{line}\n")
    return _EXIT_USAGE


def _supervise(config: Config) -> int:
    """Ray begins before the rest is read: everything else is done while it starts."""
    from skyrl_magic.agent import paths, procs, results
    from skyrl_magic.agent.ray_size import Asked, ray_size, this_machine
    from skyrl_magic.agent.ray_start import RayStart

    procs.become_subreaper()  # this finds what a run, or Ray's start, leaves behind
    try:
        paths.make_state_dir(config.state)
    except OSError as error:
        from skyrl_magic.agent.boot import cannot_start
        from skyrl_magic.core.protocol import SESSION_ENDS

        return _refuse(f"skyrl_magic: {SESSION_ENDS}{cannot_start(error)}")
    results.keep(config)  # before Ray, whose workers have the environment that it was started with
    asked = Asked(config.cpus, config.memory_mib << 20, config.gpus)
    packages = paths.package_folders(Path(config.checkout_dir))
    ray = RayStart(config.state / paths.RAY_LOG, packages, lambda: ray_size(asked, this_machine()))
    if config.ray:
        ray.start()
        ray.set_address()
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
