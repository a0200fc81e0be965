"""JupyterLab on 127.0.0.1 with the extension loaded, in the lessons' checkout.

Usage: ``python -m demo.lab [options of jupyter lab]``. The lessons are copied into the checkout once, so that what
is changed there stays; remove a copy to get the original back.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from demo import places


def main() -> int:
    """Serve until the server ends (Ctrl-C)."""
    for source in sorted((places.ROOT / "notebooks").glob("*.ipynb")):
        copy = places.CHECKOUT / source.name
        if not copy.exists():
            shutil.copyfile(source, copy)
    with tempfile.TemporaryDirectory(prefix="skyrl-", ignore_cleanup_errors=True) as runtime_dir:
        command = lab_command(places.CHECKOUT, "01_first_cell.ipynb", *sys.argv[1:])
        server = subprocess.Popen(command, env=places.lab_env(Path(runtime_dir), places.LAB_STATE))
        signal.signal(signal.SIGTERM, lambda *_: server.terminate())
        while True:
            try:
                return server.wait()
            except KeyboardInterrupt:
                continue  # The server got it too, and asks what it means.


def lab_command(folder: Path, notebook: str, *options: str) -> list[str]:
    """The command that serves ``folder`` and opens ``notebook`` in it."""
    return [
        *(sys.executable, "-m", "jupyterlab"),
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={folder}",
        f"--LabApp.default_url=/lab/tree/{notebook}",
        # Kernels over Unix sockets: ipykernel warns that its TCP ports are readable by every user of the machine.
        "--KernelManager.transport=ipc",
        "--ServerApp.log_level=WARN",
        "--LabApp.extension_manager=readonly",  # The other kind asks the package registry.
        *(["--allow-root"] if os.geteuid() == 0 else []),
        *options,
    ]


if __name__ == "__main__":
    sys.exit(main())
