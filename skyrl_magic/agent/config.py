"""What the supervisor is told when the sandbox is created."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Dict


@dataclasses.dataclass(frozen=True)
class Config:
    """The supervisor's settings; keys that it does not know are ignored, so a newer client may send more."""

    session: str
    state_dir: str
    """The agent's state: journals, run records, sockets. On the container's own disk."""
    checkout_dir: str
    volume_dir: str
    home_dir: str = ""
    """Where results may be written that end with the container; empty for nowhere."""
    volume_link: str = ""
    """A second path under which the volume is known; empty for none."""
    train_subdir: str = ""
    """The project below the checkout that is the working directory if it has a ``pyproject.toml``."""
    manifest_path: str = ""
    """JSON ``{path: entry}`` of the checkout that was mounted; empty or missing for none."""
    spec: str = ""
    """What the session was started with, in its client's words; every client is told."""
    volume_version: int = 2
    """Modal's version of the volume's file system: ``sync`` commits nothing on one of version 1."""
    first_client_s: float = 0.0
    """Within so many seconds of its start a client must have come, or the session ends; 0 for no such rule."""
    idle_timeout_s: float = 600.0
    timeout_s: float = 0.0
    """When the session ends itself, from its start; 0 for never. It can be changed up to :attr:`hard_timeout_s`."""
    hard_timeout_s: float = 0.0
    """When the backend will end the container, from its start; 0 where it is not known."""
    max_usd: float = 0.0
    """The budget that ends the session; 0 for none."""
    usd_per_hour: float = 0.0
    """What the container costs for being there: GPU, and the CPU and memory that were asked for; 0 where not known."""
    usd_per_core_hour: float = 0.0
    usd_per_gib_hour: float = 0.0
    """What use beyond :attr:`cores` and :attr:`memory_gib` costs; 0 where it is not to be measured."""
    cores: float = 0.0
    memory_gib: float = 0.0
    cpus: float = 0.0
    memory_mib: int = 0
    gpus: int = 0
    """What was asked for, which Ray is told; 0 for what nobody asked for."""
    keep_runs_days: float = 14.0
    keep_runs_gb: float = 2.0
    """How long the runs' logs are kept on the volume, and how much of them in all."""
    keep_results: bool = False
    """What environment variables place, and :attr:`infra_log_dir`, go to the volume."""
    infra_log_dir: str = ""
    """Where SkyRL writes the logs of vLLM and its workers; empty where that is not known."""
    about: Dict[str, str] = dataclasses.field(default_factory=dict)
    """What the catalog of its runs says of the session: app, owner, backend, gpu."""
    ray: bool = True
    workdir: str = ""
    """Working directory, absolute or relative to the checkout; empty for the rule of the contract."""

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Parse ``text``. Raises ``ValueError`` or ``TypeError`` with what is wrong."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise TypeError("the configuration is not a JSON object")
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    def to_json(self) -> str:
        """The configuration as :meth:`from_json` takes it."""
        return json.dumps(dataclasses.asdict(self))

    @property
    def state(self) -> Path:
        """:attr:`state_dir` as a path."""
        return Path(self.state_dir)
