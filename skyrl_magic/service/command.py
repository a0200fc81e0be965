"""What a cell's command must be before anything is started for it: text, and for bash one whose quotes close."""

from __future__ import annotations

import io
import re
import shutil
import subprocess

from skyrl_magic.core.errors import OptionError

#: One frame of the channel holds 64 MiB; what is larger than this is data. In bytes.
MAX_COMMAND_BYTES = 32 * 1024 * 1024
_BASH_TIMEOUT_S = 5.0
#: bash reads no further than it runs: what stands behind such a line may be anything.
_LEAVES = re.compile(r"^\s*(exit|exec)\b", re.MULTILINE)
_SCRIPT = re.compile(r"\s*(?=#!)")
#: A magic where a command should stand.
_MAGIC = re.compile(r"(?P<magic>%%?[A-Za-z_]\w*|![A-Za-z_]\S*)(?:\s|$)")
#: IPython's magics that do something around a cell: they work above ours.
_AROUND = frozenset({"%%time", "%%timeit", "%%prun", "%%capture"})
_SHELLS = frozenset({"%%bash", "%%sh", "%%script", "%%!", "%%system", "%%sx"})
#: How every bash says that a quote does not close, with ``LC_ALL=C``.
_UNCLOSED = re.compile(r"line (?P<line>\d+): unexpected EOF while looking for matching [`'](?P<quote>[`'\"])'")


def unix_lines(text: str) -> str:
    r"""``text`` with a newline at each line's end: bash would take the ``\r`` of a ``\r\n`` as a part of the word.

    A ``\r`` elsewhere is the user's own.
    """
    return text.replace("\r\n", "\n").removesuffix("\r")


def check_command(command: str, *, shell: bool = True) -> None:
    """Refuse a command, or where it is for no ``shell`` a Python cell, that cannot run as it was meant.

    Raises:
        OptionError: it is empty, too large, holds what is no text, or a quote in it does not close.
    """
    if not command.strip():
        raise OptionError("there is nothing to run: write a command, or use %skyrl_start to start a session")
    try:
        size_bytes = len(command.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError as error:
        raise OptionError(f"character {error.start + 1} of the command is no text: {command[error.start]!r}") from None
    if size_bytes > MAX_COMMAND_BYTES:
        raise OptionError(
            f"the command has {size_bytes / 1e6:.0f} MB, at most {MAX_COMMAND_BYTES / 1e6:.0f} MB are sent: "
            "put its data into a file of the checkout, or onto the volume"
        )
    if "\0" in command:
        line = command.count("\n", 0, command.index("\0")) + 1
        raise OptionError(f"line {line} of the command has a zero byte, which nothing can read: remove it")
    if shell and not names_interpreter(command):
        _check_magic(command)
        _check_quotes(command)


def names_interpreter(command: str) -> bool:
    """Whether the first line says what executes the command (``#!``); with :func:`script_of` it stands at its start."""
    return _SCRIPT.match(command) is not None


def script_of(command: str) -> str:
    """The command; where its first line is ``#!…``, without blank lines above that, as the kernel wants it."""
    return _SCRIPT.sub("", command, count=1) if names_interpreter(command) else command


def _check_magic(command: str) -> None:
    lines = (line.strip() for line in io.StringIO(command))
    found = _MAGIC.match(next((line for line in lines if line and not line.startswith("#")), ""))
    if found is None:
        return
    magic = found["magic"]
    if magic.startswith("!"):  # bash itself wants a blank behind one
        raise OptionError(f"{magic} in the cell: leave the exclamation mark out, the cell is bash's already")
    if magic in _AROUND:
        advice = f"put {magic} above the line %%skyrl_modal"
    elif magic in _SHELLS:
        advice = "leave it out, the cell is bash's already (a first line like #!/bin/sh names another interpreter)"
    elif magic.startswith(("%%skyrl_", "%%python", "%%py")):
        advice = "one magic says where a cell runs, and %%skyrl_python is the one for Python"
    else:
        advice = "leave it out, or give it a cell of its own"
    raise OptionError(f"{magic} in the cell is IPython's, and the cell runs in bash: {advice}")


def _check_quotes(command: str) -> None:
    """Ask this machine's bash, where the quotes do not come in pairs; without one, the session's will say it."""
    if not any(command.count(quote) % 2 for quote in "'\"`") or _LEAVES.search(command):
        return
    bash = shutil.which("bash")
    if bash is None:
        return
    try:
        checked = subprocess.run(
            [bash, "--norc", "-n", "/dev/stdin"],
            input=command.encode("utf-8", "surrogateescape"),
            capture_output=True,
            env={"LC_ALL": "C"},
            timeout=_BASH_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    found = _UNCLOSED.search(checked.stderr.decode("utf-8", "replace"))
    if found:
        raise OptionError(f"the quote {found['quote']} in line {found['line']} of the command does not close")
