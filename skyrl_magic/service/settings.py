"""From what was said in several places to one checked spec: flag > %config > project file > environment > default."""

from __future__ import annotations

import dataclasses
import os
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skyrl_magic.core import contract, spec, values
from skyrl_magic.core.errors import OptionError, reason_of
from skyrl_magic.core.options import Given, merge, setting
from skyrl_magic.core.spec import DEFAULT_HARD_TIMEOUT_S, DEFAULT_KEEP, DEFAULT_TIMEOUT_S, KeepRuns, SessionSpec
from skyrl_magic.service import trust
from skyrl_magic.service.checkout import Checkout, find_checkout, open_checkout
from skyrl_magic.service.small_files import is_own, read_small

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT_TABLE = "skyrl-magic"
#: No project file is larger, in bytes.
_MAX_TOML_BYTES = 1 << 20
#: ``--repo none``: without a checkout.
NO_REPO = "none"
#: Environment variables and the setting that each one stands for. The first two have their upstream meaning.
ENVIRONMENT = {"MODAL_GPU": "gpu", "MODAL_APP_NAME": "app", "SKYRL_MAGIC_BACKEND": "backend"}


@dataclass(frozen=True)
class Resolved:
    """A spec, the checkout it belongs to, and what the user should be told about how it came about."""

    spec: SessionSpec
    checkout: Checkout | None
    idle_timeout_s: int
    max_usd: float | None = None
    usd_per_hour: float | None = None
    notes: tuple[str, ...] = ()
    keep: KeepRuns = DEFAULT_KEEP
    """What stays of runs on the volume."""
    session: str | None = None
    """The name that the settings, not the line, give the session."""
    timeout_s: int = DEFAULT_TIMEOUT_S
    hard_timeout_s: int = DEFAULT_HARD_TIMEOUT_S
    """What the backend itself holds the container to; its supervisor keeps the other limits."""
    wait_s: int | None = None
    """How long each GPU is waited for; None for the default."""
    said: Given = field(default_factory=Given)
    """What was said in all places together; defaults are not in it."""
    refusal: str = ""
    """Why nothing may start: the project file would set what nobody has accepted, and what that is."""


@dataclass(frozen=True)
class ProjectFile:
    """What a project file says, and where it is."""

    settings: Given = field(default_factory=Given)
    path: Path | None = None
    """None where there is none."""
    notes: tuple[str, ...] = ()
    """Files that were passed over, a line each."""


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file, which may be a stranger's. Raises OSError, ValueError."""
    try:
        # A link may stand for it, where what it leads to is a file too.
        text = read_small(path.resolve(strict=True), _MAX_TOML_BYTES).decode("utf-8")
        values: dict[str, Any] = tomllib.loads(text)
    except RecursionError:  # of tables in tables; up to Python 3.12 also of links in a circle
        raise ValueError("it is nested too deeply") from None
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    return values


def project_file(folder: Path) -> ProjectFile:
    """The nearest ``pyproject.toml`` from ``folder`` upwards with a table ``tool.skyrl-magic``; none of another user.

    Raises:
        OptionError: the file cannot be read, or has a key or a value that is wrong.
    """
    notes: list[str] = []
    for parent in (folder, *folder.parents):
        path = parent / "pyproject.toml"
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                continue
        except OSError:  # it is not there, or in a folder of somebody else
            continue
        if not is_own(path):
            notes.append(f"{path} is another user's and was passed over")
            continue
        try:
            tool = read_toml(path).get("tool")
        except (OSError, ValueError) as error:
            raise OptionError(f"{path}: {reason_of(error)}") from None
        table = tool.get(PROJECT_TABLE) if isinstance(tool, dict) else None
        if table is not None:
            return ProjectFile(_read(table, parent, f"{path} [tool.{PROJECT_TABLE}]"), path, tuple(notes))
    return ProjectFile(notes=tuple(notes))


def environment_settings(environ: Mapping[str, str] | None = None) -> Given:
    """What the environment variables of :data:`ENVIRONMENT` say. Raises OptionError for a wrong value."""
    found = os.environ if environ is None else environ
    return Given(**dict(_setting(f"${name}", key, found[name]) for name, key in ENVIRONMENT.items() if found.get(name)))


def _read(table: object, folder: Path, where: str) -> Given:
    if not isinstance(table, dict):
        raise OptionError(f"{where}: it is a table, as in gpu = 'A100:4' below a line of its name")
    given = Given(**dict(_setting(where, key, value) for key, value in table.items()))
    if given.repo is None or given.repo == NO_REPO:
        return given
    return dataclasses.replace(given, repo=str(_path(given.repo, folder)))  # a path in a file begins at the file


def _setting(where: str, key: str, value: object) -> tuple[str, Any]:
    try:
        return setting(key, value)
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from None


def _written(value: float) -> str:
    """A duration in whole seconds or an amount of dollars, as one writes it."""
    return values.duration_text(value) if isinstance(value, int) else f"{value:g}"


def resolve(line: Given, config: Given, folder: Path, auto_backend: Callable[[], str]) -> Resolved:
    """The spec that a magic line asks for.

    Args:
        line: the options of the line.
        config: ``%config SkyRLMagic``.
        folder: the notebook's folder, where the search for the checkout and the project file begins.
        auto_backend: says ``modal`` or ``local`` when the backend is ``auto``.

    Raises:
        OptionError: a wrong setting. CheckoutError: ``--repo`` names no checkout.
    """
    file = project_file(folder)
    project, refusal = trust.counting(file.path, file.settings, line, config)
    given = merge(line, config, project, environment_settings())
    bounds = (
        ("--timeout", line.timeout_s, given.timeout_s),
        ("--idle-timeout", line.idle_timeout_s, given.idle_timeout_s),
        ("--max-usd", line.max_usd, given.max_usd),
    )
    notes = [*file.notes]
    notes += [
        f"{flag} {_written(asked)} is bounded to {_written(bound)} by your settings"
        for flag, asked, bound in bounds
        if asked and bound and bound < asked
    ]
    timeout_s, hard_timeout_s = _timeouts(given)
    checkout = _checkout(given.repo, folder, notes)
    if checkout is None and given.repo is None:
        notes.append("no SkyRL checkout from this folder upwards: the cell runs without one (--repo PATH names one)")
    backend = given.backend or "auto"
    if backend == "auto":
        backend = auto_backend()
    resolved = SessionSpec(
        backend=backend,
        gpu=given.gpu or spec.DEFAULT_GPU,
        image=given.image or _image(checkout),
        volume=given.volume or spec.DEFAULT_VOLUME,
        app=given.app or spec.DEFAULT_APP,
        ray=given.ray is not False,
        cpu=given.cpu,
        memory_mib=given.memory_mib,
        secrets=tuple(sorted(set(given.secrets or ()))),
        repo=str(checkout.root) if checkout else "",
    )
    idle_timeout_s = given.idle_timeout_s or spec.DEFAULT_IDLE_TIMEOUT_S
    return Resolved(
        resolved,
        checkout,
        idle_timeout_s,
        given.max_usd,
        given.usd_per_hour,
        tuple(notes),
        _keep(given),
        config.session or project.session,
        timeout_s,
        hard_timeout_s,
        given.wait_s,
        given,
        refusal,
    )


def _timeouts(given: Given) -> tuple[int, int]:
    hard_s = given.hard_timeout_s or DEFAULT_HARD_TIMEOUT_S
    timeout_s = given.timeout_s or min(DEFAULT_TIMEOUT_S, hard_s)
    return timeout_s, hard_s


def _keep(given: Given) -> KeepRuns:
    return KeepRuns(
        given.keep_runs_days or DEFAULT_KEEP.days,
        given.keep_runs_gb or DEFAULT_KEEP.gb,
        results=given.keep_results is not False,
    )


def _checkout(repo: str | None, folder: Path, notes: list[str]) -> Checkout | None:
    if repo == NO_REPO:
        return None
    if repo is not None:
        return open_checkout(_path(repo, folder).resolve())
    return find_checkout(folder, notes)


def _path(text: str, folder: Path) -> Path:
    try:
        return folder / Path(text).expanduser()
    except RuntimeError as error:  # ~ of a user who is not there
        raise OptionError(f"--repo {text}: {str(error).rstrip('.')}; write the whole path") from None


def _image(checkout: Checkout | None) -> str:
    old = checkout is None or checkout.old_layout
    return contract.IMAGE_OLD_LAYOUT if old else contract.IMAGE_NEW_LAYOUT
