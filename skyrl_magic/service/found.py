"""A container that was found on a backend, as a session."""

from __future__ import annotations

from skyrl_magic.core.errors import NotFound, SessionConflict, SessionLost
from skyrl_magic.core.ports import Sandbox
from skyrl_magic.core.session_tags import SessionTags, read_tags, says, unread_spec
from skyrl_magic.core.spec import SessionSpec
from skyrl_magic.service.connection import Timing
from skyrl_magic.service.owners import Owner, owner
from skyrl_magic.service.session import Session


def tags_in(sandbox: Sandbox, backend: str) -> SessionTags | None:
    """What the tags of an owner's session say; None where it ended just now, or is somebody's or something else."""
    try:
        tags = read_tags(sandbox.tags(), backend, sandbox.app)
    except (NotFound, SessionLost, ValueError):
        return None
    return tags if owner(backend).owns(tags.owner) else None


def session_in(tags: SessionTags, sandbox: Sandbox, backend: str, timing: Timing | None = None) -> Session:
    """The session of a container, not open; where its tags have no spec, opening it will ask for that."""
    session = Session(tags.name, tags.spec or unread_spec(backend, sandbox.app), sandbox, None, timing)
    session.spec_is_known = tags.spec is not None
    return session


def own_session(name: str, sandbox: Sandbox, backend: str, wanted: SessionSpec | None = None) -> Session:
    """The owner's session of this name, not open.

    Args:
        name: under which it was found.
        sandbox: its container.
        backend: where that is.
        wanted: what it may have been started with; spares the question where it was.

    Raises:
        SessionConflict: the name is somebody's else, or something else's. NotFound, SessionLost: it ended just now.
    """
    tags = sandbox.tags()
    try:
        found = read_tags(tags, backend, sandbox.app)
    except ValueError:
        raise SessionConflict(f"{name} is a sandbox of something else: choose another --session NAME") from None
    if not owner(backend).owns(found.owner):
        raise SessionConflict(f"session {name} belongs to {Owner(found.owner).name}: choose another --session NAME")
    if wanted is not None and says(tags, wanted):
        return Session(name, wanted, sandbox, None)
    return session_in(found, sandbox, backend)
