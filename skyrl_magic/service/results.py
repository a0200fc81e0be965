"""Results that would end with the container: said before a training starts, and when its session is stopped."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from skyrl_magic.core import contract, protocol
from skyrl_magic.core.errors import SessionError
from skyrl_magic.core.lost_results import TEXT_CHARS, lost_results
from skyrl_magic.core.spec import RunRequest
from skyrl_magic.service.checkout import Checkout
from skyrl_magic.service.session import Session

#: How long a session may take to look for what it has written, in seconds (``agent.unkept`` takes 2 s at most).
_LOOK_TIMEOUT_S = 5.0
#: So many folders are named (the agent sends no more).
_NAMED = 5


def lost_text(session: Session, request: RunRequest, *, keep_results: bool) -> str:
    """One line about the results of a training that do not go to the volume; empty where they do.

    Args:
        session: where it will run.
        request: the cell.
        keep_results: the user wants what can be kept to be kept.
    """
    checkout = session.sync.reader.checkout if session.sync is not None else None
    read = _reader(checkout, request.workdir) if checkout is not None else (lambda _: None)
    found = lost_results(_shell_text(request), read, dict(request.env), logs_kept=keep_results)
    if not found:
        return ""
    places = ", ".join(f"{lost.what} go to {lost.place}" for lost in found)
    return f"{places}: not on the volume, gone with the container; add {' '.join(lost.instead for lost in found)}"


def _shell_text(request: RunRequest) -> str:
    """What of a cell bash runs: of a Python cell the lines with an exclamation mark, or below ``%%bash`` all of it."""
    if request.kind == protocol.SHELL:
        return request.cell
    first, _, rest = request.cell.lstrip().partition("\n")
    if first.split()[:1] in (["%%bash"], ["%%sh"]):
        return rest
    lines = (line.lstrip() for line in request.cell.splitlines())
    return "\n".join(line[1:] for line in lines if line.startswith("!"))


def unkept_text(session: Session, size_text: Callable[[int], str]) -> str:
    """One line about what a session has written that ends with it; empty where that is little, or nobody can say.

    Args:
        session: open, and about to be stopped.
        size_text: writes bytes for people.
    """
    if session.is_of_earlier_version:
        return ""
    try:
        answer = session.channel.request(protocol.FindUnkept, protocol.Unkept, timeout_s=_LOOK_TIMEOUT_S)
    except SessionError:  # it does not answer: the stop goes on
        return ""
    try:
        found = [(str(path), int(size_bytes)) for path, size_bytes in answer.found[:_NAMED]]
    except (TypeError, ValueError, OverflowError):  # whatever the container sends, it is stopped
        return ""
    if not found:
        return ""
    places = ", ".join(f"{_printable(path)} ({size_text(size_bytes)})" for path, size_bytes in found)
    copy = f"cp -r {shlex.quote(_printable(found[0][0]))} {contract.VOLUME_DIR}/"
    how = f"next time `{copy}` in a cell before %skyrl_stop keeps it"
    return f"session {session.name} had written {places}: not on the volume, gone with the container; {how}"


def _printable(path: str) -> str:
    return "".join(character if character.isprintable() else "�" for character in path)


def _reader(checkout: Checkout, workdir: str) -> Callable[[str], str | None]:
    """Reads scripts of the checkout, by the path that a command in the container would use."""

    def read(path: str) -> str | None:
        there = PurePosixPath(checkout.workdir) / workdir / path
        try:
            below = there.relative_to(contract.CHECKOUT_DIR)
            return _read(checkout.root, below)
        # RuntimeError: links in a circle, up to Python 3.12. Nothing is known of what lies elsewhere.
        except (ValueError, OSError, RuntimeError):
            return None

    return read


def _read(root: Path, below: PurePosixPath) -> str | None:
    """The beginning of a regular file that lies below ``root``, whatever links a stranger has put there."""
    path = (root / below).resolve(strict=True)
    if not path.is_relative_to(root.resolve()) or not stat.S_ISREG(path.stat().st_mode):
        return None
    with path.open("rb") as file:
        return file.read(TEXT_CHARS).decode("utf-8", "replace")
