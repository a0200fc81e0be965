"""What the commands of an image mean where nothing is built: its environment, working directory and start command."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from skyrl_magic.loopback.objects import Image

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
#: Commands that change nothing a sandbox could notice here.
_HARMLESS = frozenset({"LABEL", "EXPOSE", "MAINTAINER", "STOPSIGNAL", "SHELL"})


class NotBuildableError(Exception):
    """A command would need a build; ``str()`` is the line to show."""


def apply_commands(
    image: Image,
    commands: Iterable[str],
    bases: Mapping[str, Image],
    args: Mapping[str, str],
    entrypoint: Callable[[str], list[str]] = lambda _: [],
) -> None:
    """Apply Dockerfile ``commands`` to ``image``.

    Args:
        image: Changed in place.
        commands: Lines as Modal's client sends them; a trailing backslash continues a line.
        bases: The images that ``FROM name`` may mean; any other name is a registry reference.
        args: Build arguments.
        entrypoint: The ``ENTRYPOINT`` that an image of a registry has.

    Raises:
        NotBuildableError: A command changes files (``RUN``, ``COPY``, …) or is not understood.
    """
    variables = dict(args)
    for line in _logical_lines(commands):
        keyword, _, rest = line.partition(" ")
        keyword, rest = keyword.upper(), rest.strip()
        if keyword == "FROM":
            _start_from(image, rest.split()[0] if rest else "", bases, entrypoint)
        elif keyword == "ENV":
            image.env.update(_env(rest, {**variables, **image.env}))
        elif keyword == "WORKDIR":
            path = "".join(_words(rest, {**variables, **image.env})[:1]) or "/"
            image.workdir = posixpath.normpath(posixpath.join(image.workdir or "/", path))
        elif keyword == "ENTRYPOINT":
            image.entrypoint = _command(rest)
        elif keyword == "CMD":
            image.command = _command(rest)
        elif keyword == "ARG":
            name, _, default = rest.partition("=")
            variables.setdefault(name, default)
        elif keyword == "USER" and rest in ("root", "0"):
            continue
        elif keyword not in _HARMLESS:
            raise NotBuildableError(f"the local backend builds no images, so it cannot do: {line}")


def _start_from(image: Image, name: str, bases: Mapping[str, Image], entrypoint: Callable[[str], list[str]]) -> None:
    base = bases.get(name)
    if base is None:
        image.tag, image.entrypoint = name, entrypoint(name)
        return
    image.tag = base.tag
    image.env = dict(base.env)
    image.workdir = base.workdir
    image.entrypoint = list(base.entrypoint)
    image.command = list(base.command)
    if base.error:
        raise NotBuildableError(base.error)


def _logical_lines(commands: Iterable[str]) -> Iterator[str]:
    pending = ""
    for line in "\n".join(commands).split("\n"):
        if not pending and (not line.strip() or line.lstrip().startswith("#")):
            continue
        pending += line
        if pending.endswith("\\"):
            pending = pending[:-1]
        elif pending.lstrip()[:4].upper() == "ENV " and _is_open(pending):
            pending += "\n"  # a quoted value with a line break, as the client sends it
        else:
            yield pending.strip()
            pending = ""
    if pending.strip():
        yield pending.strip()


def _is_open(text: str) -> bool:
    try:
        _words(text, {})
    except NotBuildableError:
        return True
    return False


def _words(text: str, variables: Mapping[str, str]) -> list[str]:
    """Split, unquote and expand as Docker does: single quotes hide everything, elsewhere ``$NAME`` is replaced."""
    words: list[str] = []
    word: str | None = None
    quote = ""
    position = 0
    while position < len(text):
        char = text[position]
        step, piece = 1, char
        if quote and char == quote:
            quote, piece = "", ""
        elif quote != "'" and char == "\\" and position + 1 < len(text):
            step = 2
            piece = text[position : position + 2] if quote and text[position + 1] not in '"\\$' else text[position + 1]
        elif quote != "'" and (match := _VARIABLE.match(text, position)):
            step, piece = len(match[0]), variables.get(match[1] or match[2], "")
        elif not quote and char in "'\"":
            quote, piece = char, ""
        elif not quote and char.isspace():
            words += [] if word is None else [word]
            word, piece = None, ""
            position += 1
            continue
        word = (word or "") + piece
        position += step
    if quote:
        raise NotBuildableError(f"not a Dockerfile line, a quote is not closed: {text}")
    return words if word is None else [*words, word]


def _env(rest: str, variables: Mapping[str, str]) -> dict[str, str]:
    first = rest.split(None, 1)
    if first and "=" not in first[0]:  # the old form: ENV NAME value with spaces
        value = " ".join(_words(first[1], variables)) if len(first) > 1 else ""
        return {first[0]: value}
    return dict(word.partition("=")[::2] for word in _words(rest, variables))


def _command(rest: str) -> list[str]:
    if rest.startswith("["):
        try:
            return [str(word) for word in json.loads(rest)]
        except ValueError:
            raise NotBuildableError(f"not a Dockerfile line: {rest}") from None
    return ["/bin/sh", "-c", rest] if rest else []
