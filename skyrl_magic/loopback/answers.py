"""Answers of which Modal is known to give several: a test says which one the server is to give.

``answers.json`` in the state folder has the fields of :class:`Answers`, those that differ from their default. It is
read anew whenever it matters. Without the file the server gives the answers that are the commonest.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from skyrl_magic.loopback.documents import read_json

FILE_NAME = "answers.json"
#: What an exec in a sandbox that has ended is answered with: the text by name.
NOT_FOUND, FINISHED, UNAVAILABLE = "not found", "finished", "unavailable"


@dataclasses.dataclass(frozen=True)
class Answers:
    """Which answers the server gives."""

    dead_exec: str = NOT_FOUND
    """What an exec in a sandbox that has ended is answered with: ``not found``, ``finished`` or ``unavailable``."""
    router_token_s: float = 3600.0
    """How long a token of the command router lives, in seconds; a stream is cut when its token has expired."""
    lists_filtered: bool = True
    """Whether a list by tags has only what has them: an index that lags has more."""
    unlisted_s: float = 0.0
    """How long after its creation a sandbox is in no list yet, in seconds."""
    throttled: tuple[str, ...] = ()
    """Methods of the control API that are refused until the file says otherwise, with word to come back."""
    retry_after_s: float = 0.2
    """When they may come back, in seconds."""
    spend_cap: bool = False
    """Whether the workspace has spent what it may: creations are refused, with no word to come back."""
    killed_as: str = ""
    """How the end of a sandbox that somebody ended is reported: the name of one of Modal's result statuses, without
    ``GENERIC_STATUS_``; empty for ``TERMINATED``."""
    killed_because: str = ""
    """The message of that result."""


class AnswerFile:
    """What ``answers.json`` says now.

    Args:
        root: the state folder.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / FILE_NAME

    def now(self) -> Answers:
        """The answers to give. Raises TypeError where the file has a field that is none."""
        fields = read_json(self._path) or {}
        return Answers(**{**fields, "throttled": tuple(fields.get("throttled", ()))})
