"""Whether a session satisfies the options that a line names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import PurePath

from skyrl_magic.core.options import OPTIONS, spec_text
from skyrl_magic.core.spec import SessionSpec

_FLAGS = {option.field: option.flag for option in OPTIONS}
_RAY = {option.constant: option.flag for option in OPTIONS if option.field == "ray"}


@dataclass(frozen=True)
class Contradiction:
    """An option that was named, and that a session does not satisfy; all as a line has it."""

    how: str
    """``--gpu``, or ``%config SkyRLMagic.gpu =``."""
    asked: str
    there: str
    flag: str
    """Empty where the values are flags themselves."""

    def of(self, whose: str) -> str:
        """``--gpu A100 is not session train's L4``."""
        return f"{self.how} {self.asked}".lstrip() + f" is not {whose} {self.there}"

    def of_one_that_runs(self) -> str:
        """``--gpu L4 (asked: A100)``."""
        return f"{self.flag} {self.there}".lstrip() + f" (asked: {self.asked})"

    def instead_of(self) -> str:
        """``--gpu T4 instead of L4``, where the session that was there is gone and another one has what is asked."""
        return f"{self.flag} {self.asked}".lstrip() + f" instead of {self.there}"


def contradictions(
    there: SessionSpec, wanted: SessionSpec, names: Mapping[str, str] | Iterable[str]
) -> Sequence[Contradiction]:
    """The options in which a session's spec does not satisfy the one that is wanted; none where it can be used.

    Args:
        there: what the session has.
        wanted: what is asked for.
        names: the fields that were named, and so count; a mapping also says how each was (else by its flag). Fields
            that are no part of a spec never count.
    """
    how = dict(names) if isinstance(names, Mapping) else {name: _FLAGS.get(name, "") for name in names}
    known = {field.name for field in fields(SessionSpec)}
    differing = [name for name in sorted(known & how.keys()) if not _satisfied(name, there, wanted)]
    return [_contradiction(how[name], name, there, wanted) for name in differing]


def all_of(found: Sequence[Contradiction], session: str) -> str:
    """``--gpu A100 is not session train's L4, --volume x is not its y``."""
    whose = [f"session {session}'s", *(["its"] * len(found))]
    return ", ".join(contradiction.of(who) for contradiction, who in zip(found, whose, strict=False))


def _satisfied(field: str, there: SessionSpec, wanted: SessionSpec) -> bool:
    if field == "gpu":
        return there.gpu in wanted.gpu.choices
    if field == "secrets":  # a session may well have more of them
        return set(wanted.secrets) <= set(there.secrets)
    return bool(getattr(there, field) == getattr(wanted, field))


def _contradiction(how: str, field: str, there: SessionSpec, wanted: SessionSpec) -> Contradiction:
    if field == "ray" and how in _RAY.values():  # a switch has no value
        return Contradiction("", _RAY[wanted.ray], _RAY[there.ray], "")
    asked, has = (spec_text(field, spec.texts().get(field)) for spec in (wanted, there))
    if field == "repo" and PurePath(asked).name != PurePath(has).name:
        asked, has = PurePath(asked).name, PurePath(has).name  # a saved notebook travels to other machines
    return Contradiction(how, asked, has, _FLAGS[field])
