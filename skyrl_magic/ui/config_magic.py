"""``%config SkyRLMagic.…`` with a wrong value raises, so that Run All stops: IPython's own prints it and goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from skyrl_magic.core.errors import OptionError

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from skyrl_magic.ui.config import Settings

_CONFIG, _CLASS = "config", "SkyRLMagic"
_LINE = r"\s*(?P<cls>\w+)\.(?P<name>\w+)\s*(?P<value>=.*)?"


class ConfigMagic:
    """Stands before the shell's ``%config``, which newer IPythons load only when it is used.

    Args:
        shell: the shell.
        settings: the notebook's.
    """

    def __init__(self, shell: InteractiveShell, settings: Settings) -> None:
        self._shell, self._settings = shell, settings
        self._magics: dict[str, Any] = shell.magics_manager.magics["line"]
        self._original = self._magics.get(_CONFIG)

    def install(self) -> None:
        """Take the place of the shell's own."""
        self._magics[_CONFIG] = self.config

    def uninstall(self) -> None:
        """Give it back."""
        self._magics[_CONFIG] = self._original

    def config(self, line: str) -> Any:
        """Configure IPython: ``%config Class.trait = value``. A wrong value of ``SkyRLMagic`` ends the cell."""
        match = re.fullmatch(_LINE, line, re.DOTALL)
        if match is None or match["cls"].lower() != _CLASS.lower():
            return self._find()(line)
        if match["cls"] != _CLASS:
            raise OptionError(f"%config {match['cls']}.{match['name']}: the name is {_CLASS}")
        if re.match(r"[^=]*==", line):
            raise OptionError(f"%config {line.strip()}: one = sets {match['name']}")
        self._settings.check_name(match["name"])
        return self._settings.refusing(lambda: _called(self._find(), line, match))

    def _find(self) -> Callable[[str], Any]:
        """IPython's own, loaded now if need be."""
        self.uninstall()
        try:
            found: Callable[[str], Any] = self._shell.find_line_magic(_CONFIG)
        finally:
            self._original = self._magics.get(_CONFIG)
            self.install()
        return found


def _called(original: Callable[[str], Any], line: str, match: re.Match[str]) -> Any:
    """What IPython's magic does; a value that is no Python is named, as that is mostly a text without quotes."""
    try:
        return original(line)
    except (NameError, SyntaxError):
        value = (match["value"] or "=")[1:].strip()
        raise OptionError(
            f"%config {_CLASS}.{match['name']} = {value}: the value is Python, and a text has quotes: '{value}'"
        ) from None
