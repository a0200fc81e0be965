"""The options of ``%%skyrl_modal`` and its sister magics: one table for parsing, help and completion.

Options end at the first word that is none of them, or at ``--``; there are no abbreviations. The words after them are
handed on as they were written, so that ``$VAR``, ``{}`` and quotes reach bash unchanged. In an option's value
``{name}`` is Python (``core.expand``).
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from skyrl_magic.core import values
from skyrl_magic.core.errors import OptionError
from skyrl_magic.core.expand import Evaluate, end_of_braces, expanded
from skyrl_magic.core.gpus import NONE, Gpu, parse_gpu

SESSION, LIVE, RUN, KERNEL, VARIABLES, HELP = "session", "live", "run", "kernel", "variables", "help"
#: Of lines alone: a project file does not say that it is trusted.
TRUST = "trust"
ALL_SCOPES = (SESSION, LIVE, RUN, KERNEL, VARIABLES, TRUST, HELP)
#: Of the magics that move variables.
TRAVEL_SCOPES = (SESSION, LIVE, KERNEL, VARIABLES, TRUST, HELP)
#: Of what starts something and runs no cell.
START_SCOPES = (SESSION, LIVE, KERNEL, TRUST, HELP)
BACKENDS = ("auto", "modal", "local")


# Without a repr: to make one is a fifth of what this class costs ``%load_ext``.
@dataclass(frozen=True, repr=False)
class Given:
    """What was asked for in one place (a line, ``%config``, a project file, …). ``None``: nothing was said."""

    gpu: Gpu | None = None
    cpu: float | None = None
    memory_mib: int | None = None
    image: str | None = None
    volume: str | None = None
    repo: str | None = None
    app: str | None = None
    secrets: tuple[str, ...] | None = None
    timeout_s: int | None = None
    ray: bool | None = None
    backend: str | None = None
    session: str | None = None
    wait_s: int | None = None
    idle_timeout_s: int | None = None
    max_usd: float | None = None
    usd_per_hour: float | None = None
    env: tuple[tuple[str, str], ...] | None = None
    workdir: str | None = None
    out: str | None = None
    err: str | None = None
    raise_error: bool | None = None
    errexit: bool | None = None
    stdin: str | None = None
    python: bool | None = None
    uv: str | None = None
    input: tuple[str, ...] | None = None
    output: tuple[str, ...] | None = None
    pickle: bool | None = None
    max_bytes: int | None = None
    bg: bool | None = None
    dry_run: bool | None = None
    trust: bool | None = None
    help: bool | None = None
    keep_runs_days: float | None = None
    keep_runs_gb: float | None = None
    keep_results: bool | None = None
    hard_timeout_s: int | None = None


@dataclass(frozen=True)
class Option:
    """One option. ``metavar`` is None for a switch, which sets ``constant``; ``repeats`` collects a tuple.

    ``read`` makes the value of the flag and the text behind it; it raises OptionError.
    """

    flag: str
    field: str
    scope: str
    help: str
    metavar: str | None = None
    read: Callable[[str, str], Any] = values.text
    constant: bool = True
    repeats: bool = False
    short: str | None = None


def _gpu(flag: str, text: str) -> Gpu:
    del flag  # parse_gpu names it: a GPU comes from --gpu alone
    return parse_gpu(text)


def _backend(flag: str, text: str) -> str:
    if text not in BACKENDS:
        raise OptionError(f"{flag} {text}: it is one of {', '.join(BACKENDS)}")
    return text


_DURATION = "SECONDS|30m|4h"
OPTIONS: tuple[Option, ...] = (
    Option("--gpu", "gpu", SESSION, "GPU type and count, or none; or several, in order", "L4|A100:4,L40S|none", _gpu),
    Option("--cpu", "cpu", SESSION, "CPU cores", "CORES", values.cpu_cores),
    Option(
        "--memory",
        "memory_mib",
        SESSION,
        "memory, in MiB or as 32GiB; no more is given",
        "SIZE",
        values.memory_mib,
    ),
    Option("--image", "image", SESSION, "container image", "REF", values.image_reference),
    Option("--volume", "volume", SESSION, "volume at /root/data", "NAME", values.object_name),
    Option("--repo", "repo", SESSION, "SkyRL checkout, or none", "PATH|none"),
    Option("--app", "app", SESSION, "Modal app", "NAME", values.object_name),
    Option("--secret", "secrets", SESSION, "Modal secret (repeats)", "NAME", values.object_name, repeats=True),
    Option("--no-ray", "ray", SESSION, "do not start Ray", constant=False),
    Option("--ray", "ray", SESSION, "start Ray, where your settings say otherwise; again, at %skyrl_restart"),
    Option("--backend", "backend", SESSION, "where containers run", "auto|modal|local", _backend),
    Option("--session", "session", LIVE, "the session of this name", "NAME", values.object_name),
    Option("--timeout", "timeout_s", LIVE, "end it so long after its start", _DURATION, values.duration_s),
    Option("--wait", "wait_s", LIVE, "wait so long for a GPU, then try the next", _DURATION, values.duration_s),
    Option("--idle-timeout", "idle_timeout_s", LIVE, "end it when idle for so long", _DURATION, values.duration_s),
    Option("--max-usd", "max_usd", LIVE, "end it when it has cost so much (docs/cost.md)", "USD", values.usd),
    Option("--usd-per-hour", "usd_per_hour", LIVE, "count with this price, not with Modal's", "USD", values.usd),
    Option("--env", "env", RUN, "environment variable (repeats)", "NAME=VALUE", values.env_pair, repeats=True),
    Option("--workdir", "workdir", RUN, "folder to run in, relative to the checkout", "PATH"),
    Option("--out", "out", RUN, "capture stdout in this variable, not shown", "VAR", values.variable_name),
    Option("--err", "err", RUN, "capture stderr in this variable, not shown", "VAR", values.variable_name),
    Option("--no-raise-error", "raise_error", RUN, "a failed run does not raise", constant=False),
    Option("--errexit", "errexit", RUN, "stop a shell cell at the first command that fails (bash -e)"),
    Option("--stdin", "stdin", RUN, "what a shell cell reads: text, bytes or lines", "VAR", values.variable_name),
    Option("--input", "input", RUN, "send these variables before the cell", "A,B", values.variable_names, short="-i"),
    Option("--output", "output", RUN, "bring these back after it (Python)", "C,D", values.variable_names, short="-o"),
    Option("--bg", "bg", RUN, "run in the background: the cell returns a handle at once"),
    Option("--dry-run", "dry_run", RUN, "print what would run, and touch nothing"),
    Option("--python", "python", KERNEL, "use the session's Python kernel, which keeps its variables"),
    Option("--uv", "uv", KERNEL, "Python in the project's environment: options of uv run", "'OPTIONS'"),
    Option("--pickle", "pickle", VARIABLES, "pickle what has no open format: loading a pickle runs code"),
    Option("--max-bytes", "max_bytes", VARIABLES, "bound on each variable", "SIZE", values.size_bytes),
    Option("--trust", "trust", TRUST, "let the project file set what %skyrl_trust shows, for this line"),
    Option("--help", "help", HELP, "this text", short="-h"),
)
#: What a settings file and ``%config`` say, and no line does.
SETTINGS: tuple[Option, ...] = (
    Option("--keep-runs-days", "keep_runs_days", LIVE, "days that runs stay on the volume", "DAYS", values.amount),
    Option("--keep-runs-gb", "keep_runs_gb", LIVE, "GB of runs that stay on the volume", "GB", values.amount),
    Option("--hard-timeout", "hard_timeout_s", LIVE, "Modal ends it after so long", _DURATION, values.hard_timeout_s),
    Option("--keep-results", "keep_results", LIVE, "results that variables place go to the volume"),
)
#: Switches whose setting can say no where the default is yes.
_TRUTHS = ("--ray", "--keep-results")
BY_FLAG: Mapping[str, Option] = {name: o for o in OPTIONS for name in (o.flag, o.short) if name}
# Patterns are texts, compiled when first used (``re`` keeps them): ``%load_ext`` need not wait for that.
#: A word as bash cuts them, quotes and all; one whose quote does not close goes on to the end.
_WORD = r"(?s)\s*(?P<word>(?=\S)(?:[^\s'\"\\]|\\.|'[^']*'|\"(?:[^\"\\]|\\.)*\")*(?:['\"\\].*)?)"
_QUOTED = r"(?s)'([^']*)'|\"((?:[^\"\\]|\\.)*)\"|\\(.)|([^\s'\"\\]+)"


@dataclass(frozen=True)
class Line:
    """A parsed magic line: its options and the rest, as it was written."""

    given: Given
    rest: str


def split_words(text: str) -> list[str]:
    """The words of a line as :func:`parse_line` cuts them, with their quotes."""
    return [match["word"] for match in re.finditer(_WORD, text)]


def _unquote(flag: str, word: str) -> str:
    if re.sub(_QUOTED, "", word).strip():
        raise OptionError(f"{flag}: a quote in its value does not close")
    parts = []
    for single, double, escaped, plain in re.findall(_QUOTED, word):
        parts.append(single or re.sub(r"\\([\"\\$`])", r"\1", double) or escaped or plain)
    return "".join(parts)


def unknown_flag(flag: str, allowed: Iterable[str]) -> OptionError:
    """The error for a flag that is not there, with the nearest one that is."""
    import difflib

    names = {name.lstrip("-"): name for name in allowed}  # dashes, which all have, make nothing similar
    begun = [name for name in names.values() if len(flag) > len("--x") and name.startswith(flag)]
    close = difflib.get_close_matches(flag.lstrip("-"), names, n=1, cutoff=0.6)
    near = begun or [names[name] for name in close]
    return OptionError(f"unknown option {flag}; " + (f"did you mean {near[0]}?" if near else "-h lists the options"))


def parse_line(text: str, *, scopes: Iterable[str] = ALL_SCOPES, evaluate: Evaluate | None = None) -> Line:
    """Read the options at the front of ``text``.

    Args:
        text: what follows the magic's name.
        scopes: which options this magic takes; the others are unknown here.
        evaluate: gives the text of an expression in braces; without it they are text like any other.

    Raises:
        OptionError: an unknown option (with the nearest one), a missing or wrong value, a quote that does not close.
    """
    taken = set(scopes)
    found, rest = read_options(text, [option for option in OPTIONS if option.scope in taken], evaluate=evaluate)
    return Line(Given(**found), rest)


def read_options(
    text: str, options: Iterable[Option], *, places: bool = False, evaluate: Evaluate | None = None
) -> tuple[dict[str, Any], str]:
    """The values of the ``options`` at the front of ``text``, by field, and the rest as it was written.

    Args:
        text: the line.
        options: those that it can have.
        places: ``-1`` is no option, and ends them: it names a run.
        evaluate: as for :func:`parse_line`.

    Raises:
        OptionError: as :func:`parse_line`.
    """
    allowed = {name: option for option in options for name in (option.flag, option.short) if name}
    found: dict[str, Any] = {}
    position = 0
    next_word = re.compile(_WORD).match
    while match := next_word(text, position):
        word = match["word"]
        if word == "--":
            position = match.end()
            break
        if not word.startswith("-") or word == "-" or (places and word[1:].isdecimal()):
            break
        position = match.end()
        flag, equals, _ = word.partition("=")
        option = allowed.get(flag)
        if option is None:
            raise unknown_flag(flag, allowed)
        if option.metavar is None:
            if equals:
                raise OptionError(f"{flag} takes no value")
            found[option.field] = option.constant
            continue
        start = match.start("word") + len(flag) + len(equals)
        if not equals:
            value_match = next_word(text, position)
            if value_match is None:
                raise OptionError(f"{flag} needs a value: {option.metavar}")
            start, position = value_match.start("word"), value_match.end()
        if evaluate is not None:
            position = end_of_braces(text, start, position)
        position = _end_of_list(option, text, start, position)
        _add(found, option, option.read(option.flag, value_of(flag, text[start:position], evaluate)))
    return found, text[position:].strip()


def _end_of_list(option: Option, text: str, start: int, position: int) -> int:
    """Where an option's value ends: a list may have a space beside a comma, as in ``-o a, b``."""
    if option.read not in {values.variable_names, _gpu}:
        return position
    while match := re.compile(_WORD).match(text, position):
        word = match["word"]
        if word.startswith("-") or not (text[start:position].endswith(",") or word.startswith(",")):
            break
        position = match.end()
    return position


def without_comment(text: str) -> str:
    """A line without what a ``#`` at the beginning of a word begins, as bash and Python have it."""
    for match in re.finditer(_WORD, text):
        if match["word"].startswith("#"):
            return text[: match.start("word")].rstrip()
    return text


def names_of(what: str, text: str, evaluate: Evaluate | None, check: Callable[[str, str], str]) -> list[str]:
    """The names on a line, with blanks or commas between them; an expression in braces is one name, whatever it gives.

    Args:
        what: says in an error whose line it is.
        text: the line.
        evaluate: as for :func:`parse_line`.
        check: takes ``what`` and the text of an expression, and returns that if it is a name.

    Raises:
        OptionError: an expression that cannot be evaluated, or gives no name.
    """
    found: list[str] = []
    position = 0
    while match := re.compile(_WORD).match(text, position):
        start = match.start("word")
        position = match.end() if evaluate is None else end_of_braces(text, start, match.end())
        for piece in _at_commas(text[start:position]):
            is_expression = evaluate is not None and "{" in piece
            found.append(check(what, value_of(what, piece, evaluate)) if is_expression else piece)
    return found


def _at_commas(word: str) -> list[str]:
    """The parts of a word between its commas, but for those within braces; without empty ones."""
    parts, depth = [""], 0
    for character in word:
        depth += (character == "{") - (character == "}")
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part]


def value_of(flag: str, word: str, evaluate: Evaluate | None) -> str:
    """A word's text, without its quotes and with its expressions' texts. Raises OptionError, which names ``flag``."""
    if evaluate is None:
        return _unquote(flag, word)
    try:
        return expanded(word, evaluate, lambda text: _unquote(flag, text))
    except OptionError as error:
        raise error if str(error).startswith(flag) else OptionError(f"{flag} {error}") from None


def _add(found: dict[str, Any], option: Option, value: object) -> None:
    if option.repeats:
        found[option.field] = (*found.get(option.field, ()), value)
    elif option.field in found:
        raise OptionError(f"{option.flag} is given twice")
    else:
        found[option.field] = value


def option_line(given: Given, *, settings: bool = False) -> str:
    """The options that :func:`parse_line` reads as ``given``; what is None is left out.

    Args:
        given: the values.
        settings: also those that a settings file alone can say, written as if they were options.
    """
    words = []
    for option in (*OPTIONS, *SETTINGS) if settings else OPTIONS:
        value = getattr(given, option.field)
        if option.metavar is None:
            words += [option.flag] if value == option.constant else []
        elif value is not None:
            for item in value if option.repeats else (value,):
                words += [option.flag, shlex.quote(_write(option, item))]
    return " ".join(words)


def _write(option: Option, value: Any) -> str:
    if option.field in DURATIONS or option.field == "wait_s":
        return values.duration_text(value)
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    separator = "=" if option.repeats else ","
    return separator.join(value) if isinstance(value, tuple) else str(value)


def spec_text(field: str, tag: str | None) -> str:
    """A field's value in the tags of a session (``core.spec``) as its flag takes it."""
    if tag is None:
        return NONE if field in ("repo", "secrets") else "default"
    return tag


#: Readers of what is no number, so that a number is a slip where a setting can have one.
_NAMES_AND_TEXTS = frozenset({values.text, values.image_reference, values.object_name})


def setting(name: str, value: object) -> tuple[str, Any]:
    """A field and its checked value from a settings file's key (``idle-timeout``) and plain value.

    Raises:
        OptionError: an unknown key, or a value that the option of this name refuses.
    """
    flag = "--" + name.replace("_", "-")
    persistent = {o.flag: o for o in (*OPTIONS, *SETTINGS) if o.scope in (SESSION, LIVE)}
    option = persistent.get(flag)
    if option is None:
        raise unknown_flag(flag, persistent)
    if option.metavar is None:
        if not isinstance(value, bool):
            raise OptionError(f"{name} = {value!r}: give true or false")
        return option.field, value if flag in _TRUTHS else (option.constant if value else None)
    if option.field == "gpu" and isinstance(value, (list, tuple)):
        value = ",".join(map(str, value))
    if option.read in _NAMES_AND_TEXTS:
        items = value if option.repeats and isinstance(value, (list, tuple)) else [value]
        wrong = next((item for item in items if not isinstance(item, str)), None)
        if wrong is not None:
            raise OptionError(f"{name} = {wrong!r}: give a text in quotes")
    if option.repeats:
        items = value if isinstance(value, (list, tuple)) else [value]
        return option.field, tuple(option.read(option.flag, str(item)) for item in items)
    return option.field, option.read(option.flag, str(value))


def merge(*layers: Given) -> Given:
    """Combine layers, the strongest first: the first word on each field counts, limits take the smallest.

    Timeouts and budgets are limits: a project file that says 1 h holds against a flag that says 2 h.
    """
    combined: dict[str, Any] = {}
    for field in dataclasses.fields(Given):
        said = [v for v in (getattr(layer, field.name) for layer in layers) if v is not None]
        if said:
            combined[field.name] = min(said) if field.name in LIMITS else said[0]
    return Given(**combined)


DURATIONS = frozenset({"timeout_s", "idle_timeout_s", "hard_timeout_s"})
#: Fields that several layers bound together.
LIMITS = DURATIONS | {"max_usd"}
