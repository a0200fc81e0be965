"""What the server pretends when a test says so: machines that are not there yet, images that are not as they should be.

``pretend.json`` in the state folder has three tables. ``machines`` maps a GPU as it is asked for (``A100:8``), its
type, ``none`` (no GPU) or ``*`` (everything else) to the fields of :class:`Machine`; ``images`` maps a reference to
those of :class:`PretendedImage`; ``commits`` has ``delay_s``, how many seconds more a commit takes that a sandbox asks
for. The file is read anew whenever it matters, so that a machine can come for a sandbox that waits already. Without the
file every machine is there at once, no image differs from another, and a commit takes what it takes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from skyrl_magic.loopback.documents import read_json

FILE_NAME = "pretend.json"
#: How often it is looked whether a machine has come, or a commit need not wait any more, in seconds.
LOOK_S = 0.05


@dataclasses.dataclass(frozen=True)
class Machine:
    """What becomes of a sandbox that asks for one kind of machine."""

    wait_s: float | None = 0.0
    """How long it waits for its machine, in seconds; None: there is none, and it waits for ever."""
    refuse: str = ""
    """What its creation is refused with (RESOURCE_EXHAUSTED), as where a quota is used up; empty for no refusal."""
    slow_s: float = 0.0
    """How long the call that creates it takes, in seconds."""
    preempt_s: float | None = None
    """How long after its start its machine is taken away, in seconds; None: never."""


@dataclasses.dataclass(frozen=True)
class PretendedImage:
    """How an image differs from this machine's files."""

    entrypoint: tuple[str, ...] = ()
    """Its ``ENTRYPOINT``."""
    build_error: str = ""
    """Why it cannot be built; empty where it can."""
    broken: str = ""
    """Why a container of it does not start; empty where it does."""
    python: bool = True
    """Whether a Python is found on its PATH."""


class Pretend:
    """What ``pretend.json`` says now.

    Args:
        root: the state folder.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / FILE_NAME

    def machine(self, gpu: str, count: int) -> Machine:
        """The machine for ``count`` GPUs of a type; an empty type is a sandbox without one.

        Raises:
            TypeError: the file names something that a machine does not have.
        """
        machines = self._table("machines")
        names = (f"{gpu}:{count}", gpu) if gpu else ("none",)
        found: dict[str, Any] = next((machines[name] for name in (*names, "*") if name in machines), {})
        return Machine(**found)

    def image(self, tag: str) -> PretendedImage:
        """The image of this reference. Raises TypeError as :meth:`machine`."""
        fields = dict(self._table("images").get(tag, {}))
        return PretendedImage(**{**fields, "entrypoint": tuple(fields.get("entrypoint", ()))})

    def commit_delay_s(self) -> float:
        """How long a commit waits that a sandbox asks for, in seconds: as ``sync`` of a slow service does."""
        return float(self._table("commits").get("delay_s", 0.0))

    def _table(self, name: str) -> dict[str, Any]:
        document: dict[str, dict[str, Any]] = read_json(self._path) or {}
        return document.get(name, {})
