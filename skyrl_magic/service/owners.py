"""Who owns the sessions that are started here: on each backend the account's own user, else an id that is kept at home.

No part of an owner hangs on the machine: the hostname of a container (Docker, Colab, SageMaker) changes each time.
Sessions and catalogs of earlier versions are ``user@host``, which is still the user's own on that host.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from skyrl_magic.core.ports import Backend
from skyrl_magic.service.small_files import written_beside

#: In the user's configuration folder: the kept id, and for each backend its account and whom that had named.
_ID, _ACCOUNTS = "owner", "owners.json"
#: What stands for a user is no longer than this.
_MAX_CHARS = 120

#: The account of each backend that was met, and its owner.
_known: dict[str, tuple[str, Owner]] = {}
_problems: list[str] = []


@dataclass(frozen=True)
class Owner:
    """Whose a session is."""

    text: str
    """In tags and catalogs: ``NAME (ID)`` of an account's user, or the kept id, which is readable too."""

    @property
    def name(self) -> str:
        """As others read it."""
        return self.text.rpartition(" (")[0] or self.text

    @property
    def id(self) -> str:
        """What stays when the user takes another name."""
        return self.text.rpartition(" (")[2].removesuffix(")")

    def owns(self, text: str) -> bool:
        """Whether what has this owner's text is his; an earlier version may have written it."""
        return Owner(text).id == self.id or text == user_at_host()


def owner(backend: str) -> Owner:
    """Who owns what is started on a backend; asks nobody.

    Before the backend was met in this process, it is who was known the last time.
    """
    if backend in _known:
        return _known[backend][1]
    return Owner(_last(backend) or user_at_host())


def is_known(backend: str) -> bool:
    """Whether :func:`owner` knows who that is; else the backend was never met from here."""
    return backend in _known or bool(_last(backend))


def _last(backend: str) -> str:
    """Who owned what was started on a backend the last time; empty where nobody knows."""
    with contextlib.suppress(OSError):
        return _remembered(backend).get("owner") or _read(_folder() / _ID)
    return ""


def meet(backend: Backend) -> None:
    """Find out who owns what is started on a backend; its account is asked once, and never again on this machine.

    Raises:
        BackendError: it cannot be asked.
    """
    if backend.account and _known.get(backend.name, ("",))[0] == backend.account:
        return
    last = _remembered(backend.name)
    text = last.get("owner") if backend.account and last.get("account") == backend.account else None
    if not text:
        text = backend.owner()
        if text and backend.account:
            _remember(backend.name, {"account": backend.account, "owner": text})
    _known[backend.name] = (backend.account, Owner(text[:_MAX_CHARS]) if text else _kept())


def take_problems() -> list[str]:
    """What the user should be told once, a line each."""
    found = _problems[:]
    _problems.clear()
    return found


def asker(backend: str) -> str:
    """Who asks something of a session that others use too: the owner and, under Jupyter Server, the notebook's name."""
    notebook = Path(os.environ.get("JPY_SESSION_NAME", "")).name
    name = owner(backend).name
    return f"{name} ({notebook})" if notebook else name


def is_asker(text: str, backend: str) -> bool:
    """Whether :func:`asker` has written this, from whichever notebook, or an earlier version of it."""
    return text.split(" (", 1)[0] in (owner(backend).name, user_at_host())


def user_at_host() -> str:
    """The owner that earlier versions wrote."""
    return f"{_user()}@{socket.gethostname()}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "user"


def _folder() -> Path:
    import platformdirs

    return platformdirs.user_config_path("skyrl_magic")


def _kept() -> Owner:
    """The id in the configuration folder, made where there is none; who else makes one at the same time has the same.

    Where nothing can be kept, it is the user on this host, as long as that has its name.
    """
    path = _folder() / _ID
    try:
        text = _read(path) or _make(path)
    except OSError as error:
        text = user_at_host()
        reason = error.strerror or type(error).__name__
        _problems.append(
            f"who owns your sessions cannot be kept in {path.parent} ({reason}): they are {text}'s, "
            "and not found again when this machine has another name"
        )
    return Owner(text[:_MAX_CHARS])


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def _make(path: Path) -> str:
    """Write a new id, unless another process was faster; the id that is there then. Raises OSError."""
    text = f"{_user()}-{secrets.token_hex(6)}"
    temporary = written_beside(path, text + "\n")
    try:
        os.link(temporary, path)  # whole at once, and never over another one
    except OSError:  # somebody was faster; or the file is damaged, or the file system has no links
        if not _read(path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return _read(path) or text


def _remembered(backend: str) -> dict[str, str]:
    """The account of a backend, and its owner, as they were the last time."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found = json.loads((_folder() / _ACCOUNTS).read_text("utf-8")).get(backend, {})
        return {key: found[key] for key in ("account", "owner") if isinstance(found.get(key), str)}
    return {}


def _remember(backend: str, entry: dict[str, str]) -> None:
    """Keep it where that can be; else the account is asked again in the next process."""
    path = _folder() / _ACCOUNTS
    others = {name: _remembered(name) for name in ("modal", "local") if name != backend}
    with contextlib.suppress(OSError):
        written_beside(path, json.dumps({**others, backend: entry}, indent=1)).replace(path)
