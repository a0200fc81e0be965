"""``%skyrl_trust``: what the project file would set, and the user's answer. It never waits for one."""

from __future__ import annotations

from pathlib import Path

from skyrl_magic.core.errors import OptionError
from skyrl_magic.core.options import Given
from skyrl_magic.service.settings import project_file
from skyrl_magic.service.trust import answer_for, described, needs_trust, remember

_HELP = """usage: %skyrl_trust [-y|--no]

Show what the project file (pyproject.toml, [tool.skyrl-magic]) would set that can cost money, or names a secret, an
image, a backend or a place. It counts once you accept it with -y, for its folder and until it changes; with --no it
does not. Limits, such as max-usd, always count (docs/security.md)."""
_ANSWERS = {"-y": True, "--no": False}
_STANDS = {
    True: "you accepted that",
    False: "you said that it does not count",
    None: "it counts once you accept it: %skyrl_trust -y (--no leaves it out)",
}


def answer(line: str, folder: Path) -> str:
    """What the magic prints, after it kept the answer that the line has.

    Args:
        line: of the magic.
        folder: the notebook's.

    Raises:
        OptionError: a wrong line or project file, or the answer cannot be kept.
    """
    words = line.split()
    if not {"-h", "--help"}.isdisjoint(words):
        return _HELP
    if len(words) > 1 or not set(words) <= set(_ANSWERS):
        raise OptionError("%skyrl_trust takes -y to accept what the project file would set, or --no to leave it out")
    file = project_file(folder)
    asked = needs_trust(file.settings)
    if file.path is None or asked == Given():
        return "\n".join((*file.notes, "no project file from this folder upwards would set what needs your word"))
    if words:
        remember(file.path, file.settings, count=_ANSWERS[words[0]])
    return f"{file.path} would set {described(asked)}: {_STANDS[answer_for(file.path, file.settings)]}"
