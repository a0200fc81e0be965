"""Which settings of a project file count: it may have come with a clone, so what matters is accepted by the user.

Limits need no trust, as they only make a session smaller. What can cost money, or name a secret, an image, a backend or
a place, is accepted once for a folder, and anew when it changes. That is remembered in the user's configuration folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

from skyrl_magic.core.errors import OptionError, reason_of
from skyrl_magic.core.gpus import NO_GPU
from skyrl_magic.core.options import Given, option_line
from skyrl_magic.core.spec import DEFAULT_IDLE_TIMEOUT_S, DEFAULT_TIMEOUT_S
from skyrl_magic.service.small_files import read_small, written_beside

#: ``1``, or folders: project files there and below are trusted. For runs that nobody sits at.
VARIABLE = "SKYRL_MAGIC_TRUST"
#: In the user's configuration folder: by folder the hash of its settings, and whether they count.
_FILE = "trusted.json"
_MAX_BYTES = 1 << 20
#: What a stranger may say: limits, and what costs nothing.
_HARMLESS = frozenset({"max_usd", "hard_timeout_s", "wait_s", "ray", "keep_results"})
#: A limit up to this one makes nothing longer. In seconds.
_DEFAULTS_S = {"timeout_s": DEFAULT_TIMEOUT_S, "idle_timeout_s": DEFAULT_IDLE_TIMEOUT_S}
_LINE_CHARS = 200


def needs_trust(settings: Given) -> Given:
    """Of the settings of a project file those that count only once they were accepted."""
    harmless = set(_HARMLESS)
    harmless |= {name for name, default_s in _DEFAULTS_S.items() if (getattr(settings, name) or 0) <= default_s}
    if settings.gpu == NO_GPU:
        harmless.add("gpu")
    if settings.repo == "none":
        harmless.add("repo")
    return dataclasses.replace(settings, **dict.fromkeys(harmless))


def counting(path: Path | None, settings: Given, line: Given, config: Given) -> tuple[Given, str]:
    """What of a project file counts, and why nothing may start (empty where all is well).

    Args:
        path: of the file; None where there is none.
        settings: what it says.
        line: the options of the line.
        config: ``%config SkyRLMagic``. What one of them says needs no trust: the file can only make a limit smaller.
    """
    asked = needs_trust(settings)
    open_fields = {
        field.name: None
        for field in dataclasses.fields(Given)
        if getattr(asked, field.name) is not None
        and getattr(line, field.name) is None
        and getattr(config, field.name) is None
    }
    if path is None or not open_fields:
        return settings, ""
    answer = True if line.trust or _environment_trusts(path.parent) else answer_for(path, settings)
    if answer:
        return settings, ""
    without = dataclasses.replace(settings, **open_fields)
    if answer is False:
        return without, ""
    what = described(Given(**{name: getattr(asked, name) for name in open_fields}))
    what = what if len(what) <= _LINE_CHARS else f"{what[:_LINE_CHARS]}…"
    return without, (
        f"{_printable(str(path))} would set {what}, and nobody has accepted that: %skyrl_trust -y accepts it, "
        f"%skyrl_trust --no leaves it out, and --trust or {VARIABLE}=1 counts where nobody is asked"
    )


def described(settings: Given) -> str:
    """Settings as one writes them on a line, without characters that a terminal would obey."""
    return _printable(option_line(settings, settings=True))


def answer_for(path: Path, settings: Given) -> bool | None:
    """What the user has said of these settings of a file: that they count, or do not; None for nothing."""
    entry = _remembered().get(_key(path))
    if not isinstance(entry, dict) or entry.get("settings") != _hash(settings):
        return None
    count = entry.get("count")
    return count if isinstance(count, bool) else None


def remember(path: Path, settings: Given, *, count: bool) -> None:
    """Keep the user's answer. Raises OptionError where that cannot be."""
    kept = {**_remembered(), _key(path): {"settings": _hash(settings), "count": count}}
    file = _file()
    try:
        written_beside(file, json.dumps(kept, indent=1)).replace(file)
    except OSError as error:
        raise OptionError(f"the answer cannot be kept in {file}: {reason_of(error)}; {VARIABLE}=1 counts too") from None


def _environment_trusts(folder: Path) -> bool:
    said = os.environ.get(VARIABLE, "")
    if said in ("", "0", "1"):
        return said == "1"
    real = folder.resolve()
    return any(real.is_relative_to(Path(name).resolve()) for name in said.split(os.pathsep) if os.path.isabs(name))  # noqa: PTH117


def _hash(settings: Given) -> str:
    return hashlib.sha256(option_line(needs_trust(settings), settings=True).encode("utf-8", "replace")).hexdigest()


def _key(path: Path) -> str:
    return str(path.parent.resolve())


def _file() -> Path:
    import platformdirs

    return platformdirs.user_config_path("skyrl_magic") / _FILE


def _remembered() -> dict[str, object]:
    """What was answered so far; nothing where the file is damaged, or somebody else's."""
    owner = os.geteuid() if hasattr(os, "geteuid") else None
    try:
        found = json.loads(read_small(_file(), _MAX_BYTES, owner=owner))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "�" for character in text)
