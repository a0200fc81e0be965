"""What a session's container is tagged with, so that it is found again and its spec is known without asking it.

Modal takes 10 tags on a sandbox at most. A session has five, whatever its options: what it is, whose, its name, when it
was started, and its spec in one value. How long a value may be is not known (paths and JSON are seen in values), so a
spec longer than :data:`SPEC_CHARS` is a hash there, and the session's agent says the spec (``protocol.Welcome``).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from skyrl_magic.core.gpus import NONE
from skyrl_magic.core.spec import SessionSpec

#: The tag, and its value, that every session has.
KIND = ("skyrl_magic", "session")
#: How many characters of ASCII the spec's tag may have; chosen, see above.
SPEC_CHARS = 256
_SPEC = "spec"
_HASHED = "sha256:"
#: What is known of a container from where it was found.
_PLACE = ("backend", "app")


@dataclass(frozen=True)
class SessionTags:
    """What the tags of a session say."""

    name: str
    owner: str
    started_at: float
    """Unix time in seconds; 0 where it is not known."""
    spec: SessionSpec | None
    """None where the agent alone can say it."""


def session_tags(spec: SessionSpec, name: str, owner: str, started_at: float) -> dict[str, str]:
    """The tags of a new session."""
    at = f"{started_at:.0f}"
    return {KIND[0]: KIND[1], "owner": owner, "session": name, "started_at": at, _SPEC: _tag(spec)}


def says(tags: Mapping[str, str], spec: SessionSpec) -> bool:
    """Whether the tags of a session say this spec, if only by its hash."""
    return tags.get(_SPEC) == _tag(spec)


def _tag(spec: SessionSpec) -> str:
    text = spec_json(spec)
    return text if len(text) <= SPEC_CHARS else _HASHED + hashlib.sha256(text.encode()).hexdigest()


def read_tags(tags: Mapping[str, str], backend: str, app: str) -> SessionTags:
    """What :func:`session_tags`, or an earlier version with a tag for each field of the spec, has written.

    Args:
        tags: of a container.
        backend: where it was found.
        app: its app.

    Raises:
        ValueError: they are something else's.
    """
    if tags.get(KIND[0]) != KIND[1] or not tags.get("session"):
        raise ValueError("no session")
    text = tags.get(_SPEC)
    spec: SessionSpec | None
    if text is None:
        spec = _spec(tags, backend, app)
    else:
        spec = None if text.startswith(_HASHED) else read_spec(text, backend, app)
    return SessionTags(tags["session"], tags.get("owner", ""), _seconds(tags.get("started_at", "")), spec)


def spec_json(spec: SessionSpec) -> str:
    """The spec as compact JSON, without what is known from where its container was found."""
    texts = {name: text for name, text in spec.texts().items() if name not in _PLACE}
    return json.dumps(texts, separators=(",", ":"), sort_keys=True)


def read_spec(text: str, backend: str, app: str) -> SessionSpec:
    """Read :func:`spec_json`. Raises ValueError."""
    try:
        texts = json.loads(text)
    except RecursionError:
        raise ValueError("not a session's spec: nested too deep") from None
    if not isinstance(texts, dict) or not all(isinstance(value, str) for value in texts.values()):
        raise ValueError("not a session's spec")
    return _spec(texts, backend, app)


def _spec(texts: Mapping[str, str], backend: str, app: str) -> SessionSpec:
    try:
        return SessionSpec.from_texts({**texts, "backend": backend, "app": app})
    except KeyError as error:
        raise ValueError(f"a session's spec has no {error}") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


def unread_spec(backend: str, app: str) -> SessionSpec:
    """Stands for a spec until the session's agent has said it."""
    return _spec({"gpu": NONE, "image": "", "volume": "", "ray": "no"}, backend, app)
