"""The variables of cells, ``%skyrl_push`` and ``%skyrl_pull``: checked before anything runs, set all at once."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skyrl_magic.core import values
from skyrl_magic.core.errors import OptionError, RunStopped, VariableError
from skyrl_magic.core.expand import Evaluate
from skyrl_magic.core.options import Given, names_of, parse_line, split_words
from skyrl_magic.core.variables import DEFAULT_MAX_BYTES, Packed, VariableProblem, find
from skyrl_magic.core.variables.problem import size_text
from skyrl_magic.service import variables
from skyrl_magic.service.session import Session
from skyrl_magic.ui.display import note

#: Linux takes no longer ``NAME=value``, with its closing zero (MAX_ARG_STRLEN), in bytes.
_MAX_ENV_BYTES = 32 * 4096


@dataclass(frozen=True)
class Variables:
    """What one cell takes along and what it leaves; of ``%skyrl_push`` and ``%skyrl_pull`` one of the two."""

    packed: Packed | None = None
    env: tuple[tuple[str, str], ...] = ()
    """A shell cell's, as environment variables."""
    stdin: bytes | None = None
    """What a shell cell reads."""
    output: tuple[str, ...] = ()
    max_bytes: int = DEFAULT_MAX_BYTES
    as_pickle: bool = False
    value: bool = False
    """What the line magic returns is used: a Python cell's value, or the text of a shell cell."""

    def send(self, session: Session, uv: str) -> None:
        """Set those that the session's kernel is to have.

        Raises:
            VariableError, SessionError: it was not done. RunStopped: the user stopped it.
        """
        if self.packed is None:
            return
        if self.packed.pickled:
            note(f"{_travel(self.packed.pickled)}: loading one runs code, in the session")
        try:
            variables.push(session, self.packed, uv)
        except KeyboardInterrupt:
            raise RunStopped("stopped while variables were sent; nothing ran") from None

    def bring(self, session: Session) -> dict[str, Any]:
        """Those that the session's kernel has. Raises as :meth:`send`."""
        return self._pull(session, self.output) if self.output else {}

    def bring_value(self, session: Session, count: int) -> Any:
        """The value that the session's kernel has as number ``count`` in ``Out``. Raises as :meth:`send`."""
        name = f"_{count}"
        try:
            return self._pull(session, (name,))[name]
        except VariableError as error:
            raise VariableError(str(error).replace(name, "the value")) from None

    def _pull(self, session: Session, names: Sequence[str]) -> dict[str, Any]:
        try:
            return variables.pull(session, names, self.max_bytes, as_pickle=self.as_pickle, warn=_warn)
        except KeyboardInterrupt:
            raise RunStopped("stopped before the variables were here; none was assigned") from None


def of_cell(given: Given, namespace: Mapping[str, Any]) -> Variables:
    """The variables of a cell with these options, those that it takes along made ready.

    Raises:
        OptionError: the options do not go together. VariableError: a variable cannot be sent.
    """
    taken, left = given.input or (), given.output or ()
    if not given.python and left:
        raise OptionError("-o is for Python cells, whose variables stay; a shell cell has --out and --err for its text")
    if not given.python and given.pickle:
        raise OptionError("--pickle is for Python cells: a shell cell takes strings and numbers")
    captured = next((name for name in (given.out, given.err) if name in left), None)
    if captured is not None:
        raise OptionError(f"-o and a capture both name {captured}: give each a variable of its own")
    if given.python:
        if given.stdin is not None:
            raise OptionError(f"--stdin is for shell cells: -i {given.stdin} sends a Python cell the variable")
        return _made_ready(given, taken, left, namespace)
    twice = next((name for name, _ in given.env or () if name in taken), None)
    if twice is not None:
        raise OptionError(f"-i and --env both name {twice}")
    return Variables(env=_environment(taken, namespace), stdin=_stdin(given, namespace))


def of_push(given: Given, names: Sequence[str], namespace: Mapping[str, Any]) -> Variables:
    """The variables of ``%skyrl_push``, made ready. Raises VariableError."""
    return _made_ready(given, names, (), namespace)


def of_pull(given: Given, names: Sequence[str]) -> Variables:
    """The variables of ``%skyrl_pull``."""
    return _made_ready(given, (), names, {})


def names_and_options(
    magic: str, line: str, scopes: Collection[str], evaluate: Evaluate | None = None
) -> tuple[tuple[str, ...], Given]:
    """The variables' names, before or after the options, and the options. Raises OptionError."""
    words = split_words(line)
    first = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    parsed = parse_line(" ".join(words[len(first) :]), scopes=scopes, evaluate=evaluate)
    text = " ".join([*first, parsed.rest]).strip()
    if parsed.given.help:
        return (), parsed.given
    if "{" in text and evaluate is not None:
        return tuple(dict.fromkeys(names_of(magic, text, evaluate, values.variable_name))), parsed.given
    if not text:
        raise OptionError(f"{magic} needs the names of variables, as in {magic} a,b")
    return values.variable_names(magic, text), parsed.given


def _made_ready(given: Given, taken: Sequence[str], left: Sequence[str], namespace: Mapping[str, Any]) -> Variables:
    max_bytes, as_pickle = given.max_bytes or DEFAULT_MAX_BYTES, bool(given.pickle)
    packed = variables.pack_variables(namespace, taken, max_bytes, as_pickle=as_pickle) if taken else None
    return Variables(packed, output=tuple(left), max_bytes=max_bytes, as_pickle=as_pickle)


def _environment(names: Sequence[str], namespace: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Strings and numbers as environment variables. Raises VariableError."""
    found = _found(names, namespace)
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, (str, numbers.Real)):
            kind = type(value).__qualname__
            raise VariableError(f"{name} is of type {kind}: a shell cell takes strings and numbers, a Python cell more")
        text = str(value)
        if "\0" in text or len(f"{name}={text}".encode("utf-8", "surrogatepass")) >= _MAX_ENV_BYTES:
            raise VariableError(f"{name} cannot be an environment variable: it has a zero byte, or is over 128 KiB")
    return tuple((name, str(value)) for name, value in found.items())


def _stdin(given: Given, namespace: Mapping[str, Any]) -> bytes | None:
    """The bytes of the variable that a shell cell reads. Raises VariableError."""
    if given.stdin is None:
        return None
    value = _found((given.stdin,), namespace)[given.stdin]
    if isinstance(value, (list, tuple)) and all(isinstance(line, str) for line in value):
        value = "".join(f"{line}\n" for line in value)
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogatepass")
    if not isinstance(value, (bytes, bytearray, memoryview)):
        kind = type(value).__qualname__
        raise VariableError(f"--stdin {given.stdin} is of type {kind}: give text, bytes, or a list of lines")
    max_bytes = given.max_bytes or DEFAULT_MAX_BYTES
    data = bytes(value)
    if len(data) > max_bytes:
        sizes = f"{size_text(len(data))}, over the {size_text(max_bytes)} of --max-bytes"
        raise VariableError(f"--stdin {given.stdin} has {sizes}: give a larger --max-bytes, or send less")
    return data


def _found(names: Sequence[str], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook's variables of these names. Raises VariableError."""
    try:
        return find(namespace, names, "here")
    except VariableProblem as problem:
        raise VariableError(str(problem)) from None


def _travel(names: Sequence[str]) -> str:
    return f"{', '.join(names)} travel{'s' if len(names) == 1 else ''} as a pickle"


def _warn(names: Sequence[str]) -> None:
    note(f"{_travel(names)}: loading one runs code, here, and this one comes from the session's container")
