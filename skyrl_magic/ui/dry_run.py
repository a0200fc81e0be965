"""What ``--dry-run`` prints."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from skyrl_magic.core import contract
from skyrl_magic.core.options import Given
from skyrl_magic.core.protocol.durations import duration_text
from skyrl_magic.core.spec import DEFAULT_WAIT_S
from skyrl_magic.service.owners import is_known
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.service.settings import Resolved


def dry_run_text(  # noqa: PLR0913, PLR0917  (all that was asked for)
    request: SessionRequest,
    resolved: Resolved,
    given: Given,
    folder: Path,
    command: str,
    cost: Sequence[tuple[str, str]],
) -> str:
    """The resolved spec and the run, a line each; ``cost`` are the lines about that."""
    spec = request.spec
    wait_s = request.wait_s or (DEFAULT_WAIT_S if spec.gpu.others else None)
    wait = "" if wait_s is None else duration_text(wait_s)
    checkout_workdir = resolved.checkout.workdir if resolved.checkout else contract.CHECKOUT_DIR
    rows = [
        ("session", request.place[2] if request.name or is_known(spec.backend) else "gets its name when it starts"),
        ("backend", spec.backend),
        ("gpu", " or ".join(map(str, spec.gpu.choices)) + (f", each within {wait}" if wait else "")),
        ("cpu", "default" if spec.cpu is None else f"{spec.cpu:g} cores"),
        ("memory", "default" if spec.memory_mib is None else f"{spec.memory_mib} MiB"),
        ("image", spec.image if spec.backend != "local" else f"this notebook's Python (on Modal {spec.image})"),
        ("volume", f"{spec.volume} at /root/data"),
        ("checkout", f"{os.path.relpath(spec.repo, folder)} (from here) at /root/SkyRL" if spec.repo else "none"),
        ("workdir", str(PurePosixPath(checkout_workdir, given.workdir or ""))),
        ("env", " ".join(f"{name}={shlex.quote(value)}" for name, value in given.env or ()) or "none"),
        ("app", spec.app),
        ("secrets", ", ".join(spec.secrets) or "none"),
        ("timeout", duration_text(request.timeout_s)),
        ("idle timeout", duration_text(request.idle_timeout_s)),
        *cost,
        ("ray", "yes" if spec.ray else "no"),
        ("command", command.strip()),
    ]
    notes = [*resolved.notes, *filter(None, (resolved.refusal,))]
    return "\n".join([*(f"{name:<13}{text}" for name, text in rows), *(f"note: {n}" for n in notes)])
