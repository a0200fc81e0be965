"""What the benchmark runs in: a folder of its own, a local server of its own, a checkout, a kernel with a session."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.kernels import Kernel
from skyrl_magic.loopback.daemon import ServerAddress, ensure_server, stop_server

ROOT = Path(__file__).resolve().parent.parent
#: SkyRL's repository at HEAD (FACTS).
CHECKOUT_FILES = 1063
CHECKOUT_BYTES = 23_000_000
SESSION = "bench"
OPTIONS = "--gpu none --no-ray"
APP = "skyrl-magic-bench"
#: Lines of 100 bytes with the newline, as a training run's log has them.
LINE_BYTES = 100
_FOLDERS = 120
_CONFIG = f"""\
%load_ext skyrl_magic
%config SkyRLMagic.gpu = 'none'
%config SkyRLMagic.app = '{APP}'
%config SkyRLMagic.volume = '{APP}'
"""
#: A modal client of the kernel's local server, as a user would make one.
_CLIENT = """\
import modal, warnings
from modal_proto import api_pb2
client = modal.Client({url!r}, api_pb2.CLIENT_TYPE_CLIENT, ({token_id!r}, {token_secret!r}))
client.__enter__()
warnings.simplefilter("ignore")  # modal advises its async interface in notebooks
"""


@dataclass
class World:
    """The benchmark's surroundings. ``quick`` measures the cheap rows alone, few times."""

    folder: Path
    server: ServerAddress
    quick: bool
    _kernel: Kernel | None = None
    _checkouts: int = 0
    kernels: list[Kernel] = field(default_factory=list)

    def rounds(self, full: int) -> int:
        """How often something is measured that a full run measures ``full`` times."""
        return min(full, 2) if self.quick else full

    def new_checkout(self) -> Path:
        """A new checkout whose contents no server has seen."""
        self._checkouts += 1
        root = self.folder / f"checkout-{self._checkouts}" / "SkyRL"
        files, size_bytes = (60, 600_000) if self.quick else (CHECKOUT_FILES, CHECKOUT_BYTES)
        write_checkout(root, self._checkouts, files, size_bytes)
        return root

    def new_kernel(self, checkout: Path) -> Kernel:
        """A kernel in a checkout with the extension loaded and no session."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("MODAL_", "SKYRL_"))}
        env |= {
            "HOME": str(self.folder / "home"),
            "IPYTHONDIR": str(self.folder / "home" / "ipython"),
            "SKYRL_MAGIC_LOOPBACK_DIR": str(self.server.state_dir),
            "SKYRL_MAGIC_BACKEND": "local",
        }
        kernel = Kernel(checkout, self.folder, env)
        self.kernels.append(kernel)
        kernel.run(_CONFIG)
        return kernel

    def add_client(self, kernel: Kernel) -> None:
        """Give a kernel ``client``, a modal client of the server."""
        server = self.server
        kernel.run(_CLIENT.format(url=server.url, token_id=server.token_id, token_secret=server.token_secret))

    def kernel(self) -> Kernel:
        """The kernel of the warm rows: its session runs, ``client`` and ``raw``, the session's sandbox, are set."""
        if self._kernel is None:
            kernel = self.new_kernel(self.new_checkout())
            kernel.run(f"%skyrl_start --session {SESSION} {OPTIONS}")
            self.add_client(kernel)
            kernel.run(f"raw = modal.Sandbox.from_name({APP!r}, {SESSION!r}, client=client)")
            self._kernel = kernel
        return self._kernel

    @property
    def checkout(self) -> Path:
        """The checkout of :meth:`kernel`."""
        return self.folder / "checkout-1" / "SkyRL"


@contextmanager
def made(*, quick: bool) -> Iterator[World]:
    """A world, with everything in it ended and removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="skyrl-bench-"))
    (folder / "home").mkdir()
    server = ensure_server(folder / "server", timeout_s=60)
    world = World(folder, server, quick)
    try:
        yield world
    finally:
        for kernel in world.kernels:
            kernel.close()
        stop_server(server.state_dir, timeout_s=60)
        shutil.rmtree(folder, ignore_errors=True)


def write_checkout(root: Path, seed: int, files: int, size_bytes: int) -> None:
    """A checkout of so many files and bytes: many small files, some large ones, text throughout."""
    rng = random.Random(seed)  # noqa: S311 - the same contents each time, not a secret
    weights = [rng.paretovariate(1.3) for _ in range(files - 2)]
    share = (size_bytes - 200) / sum(weights)
    for name in ("pyproject.toml", "skyrl-gym/pyproject.toml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"[project]\nname = 'bench-{seed}'\n")
    for number, weight in enumerate(weights):
        folder = root / "skyrl" / f"part_{number % _FOLDERS:03}"
        folder.mkdir(parents=True, exist_ok=True)
        text = rng.randbytes(round(weight * share) // 2 + 1).hex(" ", 8)
        (folder / f"file_{number}.py").write_text(text[: round(weight * share)])


def flood(size_bytes: int) -> str:
    """A command that prints so many bytes in lines of :data:`LINE_BYTES`."""
    lines = size_bytes // LINE_BYTES
    text = "step %09.0f loss 0.4211 reward 0.8125 pass_at_8 0.9375 policy_kl 0.0031 tokens_per_s 12345.6 ok"
    padding = "." * (LINE_BYTES - 1 - len(text % 1.0))
    return f"seq -f '{text}{padding}' {lines}"
