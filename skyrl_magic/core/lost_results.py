"""Where a SkyRL training writes its results, as far as the text of a command and of its scripts says.

The rule is that of SkyRL's own configuration (``trainer.ckpt_path``, ``trainer.export_path``, ``trainer.log_path``;
read 2026-12): their defaults and those of its example scripts lie in the home folder or in ``/tmp``, which end with the
container.
"""

from __future__ import annotations

import itertools
import posixpath
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from skyrl_magic.core.contract import CONTAINER_HOME, INFRA_LOG_DIR, VOLUME_DIR, VOLUME_LINK, image_env

#: What a training writes, by the option that says where, and where that is when nothing says it.
_DEFAULTS = {
    "trainer.ckpt_path": ("checkpoints", f"{CONTAINER_HOME}/ckpts"),
    "trainer.export_path": ("exports", f"{CONTAINER_HOME}/exports"),
    "trainer.log_path": ("logs of vLLM and the workers", INFRA_LOG_DIR),
}
_TENSORBOARD = "TENSORBOARD_DIR"
#: A training: one of SkyRL's entry points, or one of the examples' that follow it, with options of the trainer.
_ENTRY = re.compile(r"(^|\.)(skyrl|skyrl_train|examples)\.([a-z0-9_.]+\.)?main_[a-z0-9_]+$")
_OPTION = re.compile(r"\+{0,2}(trainer\.[a-z_.]+)=(.*)", re.DOTALL)
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
#: ``$NAME``, ``${NAME}``, ``${NAME:-default}`` and ``${NAME:=default}``.
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?::?[-=]([^{}]*))?\})")
_SHELLS = frozenset({"bash", "sh", "source", "."})
#: Words of the shell's own that stand before a command, and programs that run the command behind them.
_KEYWORDS = frozenset({"if", "then", "elif", "else", "while", "until", "do", "!", "{", "time", "exec", "command"})
_WRAPPERS = frozenset({"nohup", "env", "timeout", "nice", "stdbuf", "setsid", "sudo", "uv", "xargs", "caffeinate"})
#: Commands that print their arguments, and the begin of a text up to a line of its own (``<<EOF``; ``<<<`` is none).
_PRINTERS = frozenset({"echo", "printf"})
_HERE = re.compile(r"(?<!<)<<(-?)[ \t]*(?:'([^']+)'|\"([^\"]+)\"|([^\s<>|;&()'\"]+))")
#: A shift is no such text.
_ARITHMETIC = re.compile(r"\(\(.*?\)\)")
#: A command's output, whatever it is.
_SUBSTITUTION = re.compile(r"\$\([^()]*\)|`[^`]*`")
_UNKNOWN = "$__"
#: Stands for the path of what is no file: ``bash -c TEXT``.
_TEXT = "-c"
#: Scripts that run scripts are followed so far, and so many in all: a checkout that was cloned may hold anything.
_DEPTH = 3
_SCRIPTS = 8
#: No text is read further, no value grows longer, and no command more words. In characters, and words.
TEXT_CHARS = 64 * 1024
_VALUE_CHARS = 4096
_WORDS = 1000
_ENDS = frozenset({";", "&&", "||", "|", "&", "(", ")"})


@dataclass(frozen=True)
class Lost:
    """Results that end with the container."""

    what: str
    """In plain words."""
    place: str
    """The folder that they go to."""
    instead: str
    """What puts them onto the volume: an argument of the command, or a variable."""


@dataclass
class _Shell:
    """What is known while a command's text is read."""

    read: Callable[[str], str | None]
    variables: dict[str, str]
    options: dict[str, str] = field(default_factory=dict)
    trains: bool = False
    scripts: int = 0
    """How many were read."""
    folder: str = ""
    """Where ``cd`` has led, from where the command begins."""
    script: str = ""
    """The script that is read; empty for the command."""


def lost_results(
    command: str, read: Callable[[str], str | None], env: Mapping[str, str] | None = None, *, logs_kept: bool = True
) -> list[Lost]:
    """The results of a training that do not go to the volume; empty for what is no training.

    What cannot be known, as a path that a program prints, is not spoken of.

    Args:
        command: the text of a shell cell.
        read: gives the text of a script by its path as the command names it; None where it cannot be had.
        env: variables that the run gets beside its session's.
        logs_kept: the session keeps SkyRL's default folder of logs on the volume.
    """
    if "main_" not in command and ".sh" not in command:  # most cells: nothing need be read
        return []
    first_line = command.lstrip().partition("\n")[0]
    if first_line.startswith("#!") and not re.search(r"\b(ba|da|z|k)?sh\b", first_line):
        return []
    shell = _Shell(read, {**image_env(), "HOME": CONTAINER_HOME, **(env or {})})
    _run(command, shell, [], _DEPTH)
    if not shell.trains:
        return []
    found = []
    for option, (what, default) in _DEFAULTS.items():
        place = shell.options.get(option, default)
        kept_log = logs_kept and option == "trainer.log_path" and place.rstrip("/") == INFRA_LOG_DIR
        if kept_log or (option == "trainer.ckpt_path" and _saves_nothing(shell.options)):
            continue
        if _ends_with_container(place):
            found.append(Lost(what, place, f"{option}={_on_volume(place)}"))
    place = shell.variables.get(_TENSORBOARD, "")
    if shell.options.get("trainer.logger", "") == "tensorboard" and place and _ends_with_container(place):
        found.append(Lost("TensorBoard's files", place, f"{_TENSORBOARD}={_on_volume(place)}"))
    return found


def _saves_nothing(options: Mapping[str, str]) -> bool:
    return options.get("trainer.ckpt_interval", "") in {"-1", "0"}


def _ends_with_container(place: str) -> bool:
    """Whether a folder is known to lie on the container's own disk."""
    if not place or "$" in place or "`" in place or "://" in place:
        return False
    path = PurePosixPath(place.replace("~", CONTAINER_HOME, 1) if place.startswith("~") else place)
    kept = (PurePosixPath(VOLUME_DIR), PurePosixPath(VOLUME_LINK))
    return ".." not in path.parts and not any(path == volume or volume in path.parents for volume in kept)


def _on_volume(place: str) -> str:
    """Where the same would lie on the volume: what follows the home folder or ``/tmp`` stays."""
    path = PurePosixPath(place.replace("~/", "", 1) if place.startswith("~/") else place)
    for root in (CONTAINER_HOME, "/tmp"):  # noqa: S108  (nothing is written there)
        if path.is_relative_to(root):
            path = path.relative_to(root)
            break
    return f"{VOLUME_DIR}/{str(path).lstrip('/')}"


def _run(text: str, shell: _Shell, arguments: list[str], depth: int) -> None:
    """Read a script that is given ``arguments``, which stand where it says ``$@``."""
    for words in _commands(text):
        # Assignments before a command hold for it alone; as their names rarely stand for anything else, they stay.
        while words and (words[0] in _KEYWORDS or _assign(words[0], shell)):
            words = words[1:]  # noqa: PLW2901
        if not words or words[0] in _PRINTERS:
            continue
        if words[0] == "cd":
            _change_folder(words[-1], shell)
        elif words[0] in {"export", "declare", "local"}:
            for word in words[1:]:
                _assign(word, shell)
        elif words[0] == ":":
            for word in words[1:]:
                _expand(word, shell.variables)
        else:
            _command(words, shell, arguments, depth)


def _assign(word: str, shell: _Shell) -> bool:
    """Whether a word is an assignment, which is done."""
    match = _ASSIGNMENT.fullmatch(word)
    if match:
        shell.variables[match[1]] = _expand(match[2], shell.variables)
    return match is not None


def _command(words: list[str], shell: _Shell, arguments: list[str], depth: int) -> None:
    """One command: a training, or a script that is followed."""
    given: list[str] = []
    for word in words[:_WORDS]:
        given += arguments if word in {"$@", "$*", "${@}"} else [_expand(word, shell.variables)]
    given = given[:_WORDS]
    if not given:  # ``exec "$@"`` without arguments
        return
    script = _script(_unwrapped(given))
    if script is not None:
        path, rest = script
        if depth and shell.scripts < _SCRIPTS:
            shell.scripts += 1
            _follow(path, rest, shell, depth - 1)
        return
    options = {match[1]: match[2].strip("'\"") for word in given if (match := _OPTION.fullmatch(word))}
    if any(_is_training(before, word) for before, word in itertools.pairwise(given)):
        shell.trains = True
        shell.options.update(options)


def _follow(path: str, arguments: list[str], shell: _Shell, depth: int) -> None:
    """Read a script, or after ``-c`` the text itself, in a shell of its own as far as ``cd`` goes."""
    outside = shell.folder, shell.script
    if path == _TEXT:
        text: str | None = arguments[0]
        arguments = arguments[1:]
    else:
        shell.script = posixpath.normpath(posixpath.join(shell.folder, path))
        text = shell.read(shell.script)
    if text is not None:
        _run(text, shell, arguments, depth)
    shell.folder, shell.script = outside


def _change_folder(word: str, shell: _Shell) -> None:
    """``cd``; in a script one that a program prints is taken for the script's own: ``cd "$(dirname "$0")"``."""
    folder = _expand(word, shell.variables)
    if _UNKNOWN in folder and shell.script:
        folder = folder.replace(_UNKNOWN, posixpath.dirname(shell.script) or ".")
        shell.folder = posixpath.normpath(folder)
    else:
        shell.folder = posixpath.normpath(posixpath.join(shell.folder, folder))


def _unwrapped(words: list[str]) -> list[str]:
    """The shell or the script that programs like ``nohup`` and ``timeout 1h`` run."""
    if words[0] not in _WRAPPERS:
        return words
    starts = (at for at, word in enumerate(words) if word in _SHELLS or (word.endswith(".sh") and "=" not in word))
    return words[next(starts, 0) :]


def _is_training(before: str, word: str) -> bool:
    """Whether Python is told to run an entry point: ``-m module`` or a file."""
    if before == "-m":
        return _ENTRY.search(word) is not None
    file = word.endswith(".py") and (before in {"run", "python", "python3"} or before.startswith("-"))
    return file and _ENTRY.search(word.removesuffix(".py").removeprefix("./").replace("/", ".")) is not None


def _script(words: list[str]) -> tuple[str, list[str]] | None:
    """The script that a command runs, and its arguments."""
    at = 0
    if words[0] in _SHELLS:
        at = 1
        while at < len(words) and words[at].startswith("-"):
            if words[at].endswith("c"):  # ``-c``, ``-lc``: the text itself comes next
                return (_TEXT, words[at + 1 :]) if at + 1 < len(words) else None
            at += 1
    elif not words[0].endswith(".sh"):
        return None
    if at >= len(words) or not words[at].endswith(".sh"):
        return None
    return words[at], words[at + 1 :]


def _expand(word: str, variables: dict[str, str]) -> str:
    """Put in the variables that are known; ``:=`` sets one that is not."""

    def value(match: re.Match[str]) -> str:
        name, default = match[1] or match[2], match[3]
        if name in variables:
            return variables[name]
        if default is None:
            return match[0]
        known = _expand(default.strip("\"'"), variables)
        if "=" in match[0][: match[0].index(default) if default else None]:
            variables[name] = known
        return known

    expanded = _VARIABLE.sub(value, word) if len(word) <= _VALUE_CHARS else word
    return expanded if len(expanded) <= _VALUE_CHARS else _UNKNOWN


def _commands(text: str) -> Iterator[list[str]]:
    """The words of each simple command; what bash alone can read is left out."""
    for line in _lines(text[:TEXT_CHARS]):
        lexer = shlex.shlex(_SUBSTITUTION.sub(_UNKNOWN, line), posix=True, punctuation_chars=";&|()")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words: list[str] = []
        try:
            for word in lexer:
                if word in _ENDS or set(word) <= set(";&|()"):
                    if words:
                        yield words
                    words = []
                else:
                    words.append(word)
        except ValueError:  # a quote goes on over lines: text, not options
            continue
        if words:
            yield words


def _lines(text: str) -> Iterator[str]:
    """Lines, those that end in a backslash joined to the next; the text of a ``<<EOF`` only where a shell runs it."""
    joined = end = ""
    tabs = False
    for line in text.splitlines():
        if end:
            end = "" if (line.lstrip("\t") if tabs else line) == end else end
            continue
        here = _HERE.search(_ARITHMETIC.sub("", line))
        if here is not None and not _SHELLS & set(line.split()):
            tabs, end = bool(here[1]), here[2] or here[3] or here[4].replace("\\", "")
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        yield joined + line
        joined = ""
    if joined:
        yield joined
