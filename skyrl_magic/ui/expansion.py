"""What ``{…}`` in a line's options means in the notebook, and a word for who writes it into a command."""

from __future__ import annotations

import numbers
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from skyrl_magic.core.errors import OptionError
from skyrl_magic.core.expand import expression_in

#: A name in braces as other magics expand it; behind a dollar it is the shell's.
_NAME = re.compile(r"\{([A-Za-z_]\w*)\}(?!\})")
_CONVERSIONS: Mapping[str, Callable[[Any], str]] = {"!r": repr, "!s": str, "!a": ascii}


@dataclass(frozen=True)
class Expansion:
    """Evaluates the expressions of one line, in the variables of the code that has it.

    Args:
        namespace: those variables.
    """

    namespace: Mapping[str, Any]

    def __call__(self, field: str) -> str:
        """The text of ``name``, ``run.id`` or ``lr:.0e``. Raises OptionError."""
        source = expression_in(field)
        ending = field[len(source) :]
        conversion, _, spec = ending.partition(":")
        try:
            value = eval(source.strip(), dict(self.namespace))  # noqa: S307  (the user's own line, as in other magics)
            if conversion:
                value = _CONVERSIONS[conversion.strip()](value)
            return format(value, spec)
        except NameError as error:
            advice = f"write {{{{{field}}}}} for the text itself"
            raise OptionError(f"{{{field}}}: there is no {error.name or source} in this notebook; {advice}") from None
        except Exception as error:  # noqa: BLE001  (whatever the user's expression raises)
            said = next(iter(str(error).splitlines()), "")
            raise OptionError(f"{{{field}}} gives {type(error).__name__}: {said}") from None


def names_in_braces(command: str, namespace: Mapping[str, Any], sent: Collection[str]) -> Iterator[str]:
    """Names of the notebook's that stand in braces in a shell command, where they are but text.

    Args:
        command: the command.
        namespace: the variables.
        sent: those that travel with it anyway.
    """
    found = (
        match[1] for match in _NAME.finditer(command) if command[match.start() - 1 : match.start()] not in ("$", "{")
    )
    for name in dict.fromkeys(found):
        value = namespace.get(name)
        if not (name in sent or isinstance(value, bool) or not isinstance(value, (str, numbers.Real))):
            yield name
