"""What a cell on this machine does not have, though it was asked for: said once, before anybody wonders."""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from skyrl_magic.core.gpus import NO_GPU
from skyrl_magic.core.options import Given, option_line
from skyrl_magic.core.spec import SessionSpec
from skyrl_magic.service.pricing import LOCAL
from skyrl_magic.service.settings import read_toml

#: Options of the spec that mean nothing to a sandbox on this machine, and what there is instead.
_INSTEAD = {
    "image": "this notebook's Python environment",
    "cpu": "all CPUs of this machine",
    "memory_mib": "the memory of this machine",
}
#: What begins a command of the shell, or goes before one, with its options and numbers.
_PREFIXES = "then|do|else|if|while|time|exec|sudo|watch|timeout|env|nohup"
_BEFORE = rf"(?:^|[;&|!(`]|\b(?:{_PREFIXES})\b(?:[ \t]+(?:-\S+|[\d.]+\w?))*|^\w+=\S*)"
#: The command, not a word of another one's, of a longer name or of a path's end.
_NVIDIA_SMI = re.compile(rf"{_BEFORE}[ \t]*nvidia-smi(?![\w.-])", re.MULTILINE)


def local_notes(spec: SessionSpec, said: Given, workdir: Path | None, *, is_new: bool) -> Iterator[str]:
    """What the local backend does not give of what was asked for.

    Args:
        spec: the session's; another backend's has no notes.
        said: what was said anywhere: on the line, in ``%config``, in a file.
        workdir: the project's folder in the checkout; None without one.
        is_new: the session was started now. What one that ran already was asked for is no news to who did not ask.
    """
    if spec.backend != LOCAL:
        return
    asked = is_new or (said.gpu is not None and spec.gpu in said.gpu.choices)
    if spec.gpu != NO_GPU and asked:
        yield f"--gpu {spec.gpu}: the local backend adds no GPU; the container sees what this machine has"
    ignored = {field: value for field in _INSTEAD if (value := getattr(said, field)) is not None}
    if ignored:
        has = ", ".join(_INSTEAD[field] for field in ignored)
        yield f"{option_line(Given(**ignored))}: no effect on the local backend, whose container has {has}"
    if workdir is not None:
        yield from _python_notes(workdir)


def _python_notes(workdir: Path) -> Iterator[str]:
    """The project's ``requires-python`` where this notebook's Python, which runs its cells here, is another one."""
    try:
        project = read_toml(workdir / "pyproject.toml").get("project")
    except (OSError, ValueError):  # the run will say what is wrong with it, if it matters
        return
    wanted = project.get("requires-python") if isinstance(project, dict) else None
    if not isinstance(wanted, str):
        return
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        fits = SpecifierSet(wanted).contains(platform.python_version(), prereleases=True)
    except InvalidSpecifier:
        return
    if not fits:
        yield (
            f"the checkout asks for Python {wanted}, and cells on the local backend have this notebook's "
            f"{platform.python_version()}: `uv run` takes another one, or start the notebook with it"
        )


def no_gpu_text(spec: SessionSpec, cell: str, which: Callable[[str], str | None] = shutil.which) -> str:
    """Why ``nvidia-smi`` will find nothing; empty where the cell does not run it, or there may be a GPU.

    Args:
        spec: the session's.
        cell: the text of the cell.
        which: finds a command on this machine.
    """
    if _NVIDIA_SMI.search(cell) is None:
        return ""
    if spec.backend == LOCAL:
        if which("nvidia-smi") is not None:
            return ""
        return "nvidia-smi: this machine has no NVIDIA GPU, and the local backend adds none; --backend modal has them"
    if spec.gpu == NO_GPU:
        return "nvidia-smi: this session has no GPU (--gpu none); --gpu L4 starts one that has"
    return ""
