"""What a session needs, and what one run of it is asked to do. Frozen and checked before any I/O."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from skyrl_magic.core.errors import OptionError
from skyrl_magic.core.gpus import Gpu, parse_gpu
from skyrl_magic.core.protocol import SHELL

DEFAULT_GPU = Gpu("L4", 1)
#: How long one GPU is waited for, in seconds, where another would do.
DEFAULT_WAIT_S = 120
#: Of a name that Modal takes (64), what the GPUs may have.
_NAME_CHARS = 57
DEFAULT_TIMEOUT_S = 3600
DEFAULT_IDLE_TIMEOUT_S = 600
#: How long the backend lets a container live at most: Modal's longest.
DEFAULT_HARD_TIMEOUT_S = 24 * 3600
DEFAULT_VOLUME = "skyrl-data"
DEFAULT_APP = "my_skyrl_app"


@dataclass(frozen=True)
class SessionSpec:
    """What a session needs. Same spec, owner and checkout: same session."""

    backend: str
    """``modal`` or ``local``."""
    gpu: Gpu
    image: str
    volume: str
    app: str
    ray: bool
    cpu: float | None = None
    memory_mib: int | None = None
    secrets: tuple[str, ...] = ()
    repo: str = ""
    """Absolute path of the checkout on the user's machine; empty for none."""

    @property
    def preemptible(self) -> bool:
        """Whether its machine may be taken away while it runs, as Modal does with those that have a GPU."""
        return self.backend == "modal" and self.gpu.count > 0

    def texts(self) -> dict[str, str]:
        """Each field as text; what has no value is left out."""
        texts = {f.name: _text(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return {name: text for name, text in texts.items() if text}

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> SessionSpec:
        """Read :meth:`texts`; other keys are passed over. Raises KeyError or ValueError where they are not ours."""
        return cls(
            backend=texts["backend"],
            gpu=_gpu(texts["gpu"]),
            image=texts["image"],
            volume=texts["volume"],
            app=texts["app"],
            ray=texts["ray"] == "yes",
            cpu=float(texts["cpu"]) if "cpu" in texts else None,
            memory_mib=int(texts["memory_mib"]) if "memory_mib" in texts else None,
            secrets=tuple(texts["secrets"].split(",")) if "secrets" in texts else (),
            repo=texts.get("repo", ""),
        )

    def key(self, owner: str) -> str:
        """16 hex digits that stand for this spec and owner."""
        # Earlier versions had the timeout in the spec: the sessions that they gave the default one are found again.
        texts = {**self.texts(), "timeout_s": str(DEFAULT_TIMEOUT_S)}
        return hashlib.sha256(f"{owner}\n{sorted(texts.items())}".encode()).hexdigest()[:16]

    def default_name(self, owner: str) -> str:
        """The name of the session when the user gives none: readable, and the same for the same spec."""
        # No other sign of a GPU's name may stand in a sandbox's.
        gpu = "-or-".join(map(str, self.gpu.choices)).lower()
        gpu = gpu.replace(":", "x").replace("!", "").replace("+", "plus")
        return f"{gpu[:_NAME_CHARS]}-{self.key(owner)[:6]}"

    def options(self) -> str:
        """The spec as the options of a magic line, without those that have their default."""
        words = [f"--gpu {self.gpu}"]
        if self.cpu is not None:
            words.append(f"--cpu {self.cpu:g}")
        if self.memory_mib is not None:
            words.append(f"--memory {self.memory_mib}")
        if self.volume != DEFAULT_VOLUME:
            words.append(f"--volume {self.volume}")
        words += [f"--secret {name}" for name in self.secrets]
        if not self.ray:
            words.append("--no-ray")
        return " ".join(words)


def _gpu(text: str) -> Gpu:
    try:
        return parse_gpu(text)
    except OptionError as error:
        raise ValueError(str(error)) from None


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value)


@dataclass(frozen=True)
class KeepRuns:
    """What of a session's runs stays on the volume: for how long their logs, how much of all runs', and results."""

    days: float = 14.0
    gb: float = 2.0
    """In 1e9 bytes."""
    results: bool = True
    """What environment variables place (TensorBoard's files), and SkyRL's logs of workers, goes to the volume."""


DEFAULT_KEEP = KeepRuns()


@dataclass(frozen=True)
class RunRules:
    """The notebook's settings (``%config``) that concern its runs."""

    detach: bool = False
    """Stop only stops watching a run."""
    stop_on_exit: bool = False
    """When the notebook's kernel ends, the run of its cell is stopped."""
    grace_s: float = 5.0
    """How long a run gets after SIGINT, and after SIGTERM, before the next signal."""
    max_runs: int = 16
    """How many runs may go on in a session when another one is started."""


@dataclass(frozen=True)
class RunRequest:
    """One cell: its text, and how to run and show it."""

    cell: str
    env: tuple[tuple[str, str], ...] = ()
    workdir: str = ""
    out: str | None = None
    err: str | None = None
    value: bool = False
    """A shell run's stdout is what the line magic returns, and is not shown."""
    raise_error: bool = True
    errexit: bool = False
    stdin: bytes | None = None
    """What a shell run reads; None for an empty stdin."""
    kind: str = SHELL
    """``shell`` or ``python``."""
    uv: str = ""
    """Python in the project's environment: options of ``uv run``."""
    allow_stdin: bool = False
    """The front end can answer ``input()``."""
    rules: RunRules = RunRules()
    """What Stop does, and how many runs there may be."""
    start: tuple[int, int, int] = (0, 0, 0)
    """The bytes of stdout, stderr and outputs from which on it is shown."""
    attached: bool = False
    """It was started before, and this cell goes back to it."""
    notebook: str = ""
    """Stands for the notebook whose cell it is, also after a restart of its kernel."""
