"""The report of ``make live``: what a maintainer needs, and nothing that is a secret or says who ran it."""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import platform
import re
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import modal.config

#: Lines of an error that are shown, and characters of one.
_LINES, _LINE_CHARS = 3, 300
_SHORTEST_SECRET = 4
#: Names of a user and of a home that say nothing, and that containers have too.
_EVERYBODYS = {"root", "/root"}
#: What is a secret or says who it is wherever it stands: Modal's tokens, JWTs, e-mail addresses, queries of addresses.
_SECRETS = (
    re.compile(r"\b(?:ak|as|wk|ws)-[\w-]{6,}"),
    re.compile(r"\beyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?"),
    re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+"),
    re.compile(r"(?<=\?)[^\s\"']{12,}"),
)
#: Ids of Modal's objects; the kind stays.
_ID = re.compile(r"\b(ac|ap|en|ex|fc|fu|im|mo|sb|st|ta|us|vo)-[A-Za-z0-9]{16,}")
_HIDDEN = "…"


@dataclass(frozen=True)
class Outcome:
    """What became of one test."""

    name: str
    outcome: str
    """``passed``, ``failed``, ``error`` or ``skipped``."""
    seconds: float
    error: str = ""


@dataclass(frozen=True)
class Facts:
    """What the report says of the run as a whole."""

    gpu: str
    is_modal: bool
    """Whether the account's server is Modal's own."""
    began_at: float
    """Unix time in seconds."""
    left: int
    """Containers that the suite left, which were ended."""


def read_outcomes(path: Path) -> list[Outcome]:
    """The outcomes that pytest wrote as JUnit's XML; none where it did not come so far."""
    if not path.is_file():
        return []
    found = []
    for case in ET.parse(path).iter("testcase"):  # noqa: S314  (our own pytest wrote it)
        outcome, error = "passed", ""
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                outcome = {"failure": "failed"}.get(child.tag, child.tag)
                error = child.get("message", "")
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name', '')}"
        found.append(Outcome(name, outcome, float(case.get("time", "0")), error))
    return found


def secrets_here() -> list[str]:
    """What of this machine and account is not to be read in a report, the longest first."""
    config = modal.config.config
    names = ("token_id", "token_secret", "oauth_refresh_token", "oauth_client_secret", "oauth_jwt_key")
    values = [str(config.get(name) or "") for name in names]
    values += [value for name, value in os.environ.items() if name.startswith("MODAL_TOKEN")]
    values += [str(Path.home()), socket.gethostname(), getpass.getuser()]
    found = {value for value in values if len(value) >= _SHORTEST_SECRET} - _EVERYBODYS
    return sorted(found, key=len, reverse=True)


def redacted(text: str, secrets: Iterable[str]) -> str:
    """The text without secrets, ids and names."""
    for pattern in _SECRETS:
        text = pattern.sub(_HIDDEN, text)
    for secret in secrets:
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _HIDDEN, text)
    return _ID.sub(rf"\1-{_HIDDEN}", text)


def report(facts: Facts, tests: Sequence[Outcome], secrets: Sequence[str]) -> str:
    """The report, as Markdown."""
    counts = {name: sum(test.outcome == name for test in tests) for name in ("passed", "failed", "error", "skipped")}
    began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(facts.began_at))
    server = "Modal's own server" if facts.is_modal else "another server than Modal's"
    lines = [
        "# skyrl_magic: the contract suite on Modal",
        "",
        f"- {began}, {sum(test.seconds for test in tests):.0f} s of tests, --gpu {facts.gpu}, {server}",
        f"- skyrl_magic {_version('skyrl-magic')} ({_commit()}), modal {_version('modal')}, {_machine()}",
        "- " + ", ".join(f"{count} {name}" for name, count in counts.items()),
        f"- containers that were left and ended: {facts.left}",
        "",
        "| test | | s |",
        "| --- | --- | --- |",
        *(f"| {test.name} | {test.outcome} | {test.seconds:.1f} |" for test in tests),
    ]
    for test in tests:
        if test.outcome in ("failed", "error"):
            error = [line[:_LINE_CHARS] for line in test.error.strip().splitlines()[:_LINES]]
            lines += ["", f"## {test.name}", "", "```", *error, "```"]
    if not tests:
        lines += ["", "pytest has written no outcomes: it ended before its first test"]
    return redacted("\n".join(lines), secrets) + "\n"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "?"


def _machine() -> str:
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no git"
