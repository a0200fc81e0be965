"""The commit of a session's volume, for what needs it: no run's end waits for it.

A new container sees of a volume what was committed when it started, so what this process' other sessions have written
to the same one is committed before.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import BackendUnavailable, SessionError
from skyrl_magic.service.patience import wait_for
from skyrl_magic.service.session import Progress, Session

#: A commit that takes longer is not waited for, in seconds.
PATIENCE_S = 60.0
#: Modal's version of a volume that cannot be committed on demand.
IN_BACKGROUND = 1


def commit_first(sessions: Iterable[Session], volume: str, progress: Progress) -> None:
    """Let ``sessions`` commit ``volume``, for the container that starts next; whoever waits sees for what.

    What cannot be committed is a line, and no reason not to go on.
    """
    for session in sessions:
        missing = f"what session {session.name} has written last may not be there yet"
        if session.status.volume_version <= IN_BACKGROUND:
            progress.note(f"volume {volume} is version 1, which Modal commits some seconds after a change: {missing}")
            continue
        if session.is_of_earlier_version:
            progress.note(f"session {session.name}, of an earlier version, commits when its runs end: {missing}")
            continue
        try:
            wait_for(
                f"session {session.name} to commit volume {volume}", partial(_commit, session), progress, PATIENCE_S
            )
        except BackendUnavailable:
            progress.note(f"the commit of volume {volume} takes longer than {PATIENCE_S:g}s: {missing}")
        except SessionError as error:  # it has ended, with its last commit; or the commit failed
            if session.channel.alive:
                progress.note(f"{error}: {missing}")


def _commit(session: Session) -> None:
    session.channel.request(protocol.CommitVolume, protocol.Done, PATIENCE_S)
