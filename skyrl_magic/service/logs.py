"""Reading a run's journal: all of it in order, its last lines, or any range of bytes."""

from __future__ import annotations

import dataclasses
import queue
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import SessionError, UnknownRun
from skyrl_magic.service.interrupts import look_s
from skyrl_magic.service.session import Session
from skyrl_magic.service.watch import Lost, Watch

_TIMEOUT_S = 60.0
#: A session has no more runs than these: what goes on after them is no list.
_MOST_RUNS = 100_000
#: The fields of a run that have no default.
_TEXTS = frozenset({"run_id", "state", "command"})
_SOON_S = 5.0
#: ``RunSummary.state`` of a run that is over.
ENDED = "ended"
#: The agent holds an incomplete UTF-8 character back while a run goes on: no more bytes than these, and so long is
#: waited for them. In seconds.
_HELD_BACK_BYTES = 3
_HELD_BACK_S = 1.0


def summary(session: Session, run_id: str) -> protocol.RunSummary:
    """What the session knows of a run.

    Raises:
        UnknownRun: it knows none of this id. SessionError: it cannot be asked.
    """
    for run in all_runs(session):
        if run.run_id == run_id:
            return run
    raise UnknownRun(f"session {session.name} has no run {run_id}")


def all_runs(session: Session, timeout_s: float = _TIMEOUT_S) -> list[protocol.RunSummary]:
    """The session's runs, oldest first; each answer may take ``timeout_s``. Raises SessionError."""
    known = {field.name: field.default for field in dataclasses.fields(protocol.RunSummary)}  # a newer agent says more
    until_s = time.monotonic() + 2 * timeout_s
    found: list[protocol.RunSummary] = []
    while True:
        answer = _listed(session, len(found), timeout_s)
        try:
            found += [_summary(run, known) for run in answer.runs]
        except (TypeError, AttributeError, protocol.ProtocolError) as error:
            raise SessionError(f"the session's list of runs cannot be read: {error}") from None
        if not answer.more or not answer.runs:
            return found
        if len(found) > _MOST_RUNS or time.monotonic() > until_s:
            raise SessionError(f"the session's list of runs does not end: it is left after {len(found)}")


def _summary(run: Mapping[str, Any], known: Mapping[str, Any]) -> protocol.RunSummary:
    """A run as a container says it is. Raises TypeError, AttributeError or ProtocolError where that cannot be."""
    fields = {name: value for name, value in run.items() if name in known}
    for name, value in fields.items():
        if not protocol.can_be(value, "" if name in _TEXTS else known[name]):
            raise protocol.ProtocolError(f"{name} cannot be {value!r:.40}")
    code, seen = fields.get("exit_code"), fields.get("seen", {})
    if not (code is None or isinstance(code, int)) or not isinstance(seen, dict):
        raise protocol.ProtocolError("a run has fields of a wrong type")
    return protocol.RunSummary(**fields)


def runs_that_go_on(session: Session) -> list[protocol.RunSummary]:
    """The session's runs that are not over, oldest first; none where it does not answer soon."""
    try:
        return [run for run in all_runs(session, _SOON_S) if run.state != ENDED]
    except SessionError:
        return []


def _listed(session: Session, first: int, timeout_s: float) -> protocol.RunList:
    """Some of the session's runs, from this place on."""
    channel = session.channel
    return channel.patiently(
        lambda: channel.request(lambda number: protocol.ListRuns(number, first), protocol.RunList, timeout_s=timeout_s)
    )


def replay(  # noqa: PLR0913, PLR0917  (what, of it which part, and how)
    session: Session,
    run: protocol.RunSummary,
    streams: Collection[str],
    policy: str,
    sink: Callable[[protocol.Message], object],
    part: tuple[int, int] = (0, -1),
) -> None:
    """Hand what ``run`` has written so far to ``sink``, in the order of its writing, as Output and Gap frames.

    Args:
        session: where it ran.
        run: as :func:`summary` gives it; what it writes later is not waited for.
        streams: which of ``stdout``, ``stderr`` and ``outputs``.
        sink: takes the frames.
        policy: ``protocol.SHOW`` for what a cell can show, ``protocol.ALL`` for every byte.
        part: the bytes ``[start, end)`` of each stream that are wanted (-1: to its end); ``outputs`` are whole or none.

    Raises:
        SessionError: the session is gone, or stopped answering.
    """
    start, end = part
    sizes = dict(zip(protocol.JOURNAL_STREAMS, (run.stdout_bytes, run.stderr_bytes, run.outputs_bytes), strict=True))
    ends = {stream: size if end < 0 else min(end, size) for stream, size in sizes.items()}
    left = {stream: ends[stream] - start for stream in streams if ends[stream] > start}
    policies = {stream: policy if stream in left else protocol.NONE for stream in protocol.JOURNAL_STREAMS}
    out, err, outputs = (policies[stream] for stream in protocol.JOURNAL_STREAMS)
    request = protocol.WatchRun(run.run_id, start, start, out, err, outputs=outputs, stdout_end=end, stderr_end=end)
    watch = session.channel.add_watch(request)
    try:
        if left:
            session.channel.send(watch.resume())
        while left:
            held_back = policy == protocol.SHOW and max(left.values()) <= _HELD_BACK_BYTES
            try:
                event = watch.events.get(timeout=_HELD_BACK_S if held_back else _TIMEOUT_S)
            except queue.Empty:
                if held_back:
                    return
                raise SessionError(f"the session did not send the log of run {run.run_id}") from None
            if isinstance(event, Lost):
                raise event.error
            if isinstance(event, protocol.RunEnded):
                return
            if isinstance(event, (protocol.Output, protocol.Gap)):
                sink(event)
                reached = event.end if isinstance(event, protocol.Gap) else event.offset + event.raw_bytes
                left[event.stream] = ends[event.stream] - reached
                left = {stream: rest for stream, rest in left.items() if rest > 0}
    finally:
        session.channel.unwatch(watch)


def follow(
    session: Session,
    watch: Watch,
    sink: Callable[[protocol.Message], object],
    due_s: Callable[[], float | None],
    tick: Callable[[], object],
) -> protocol.RunEnded:
    """Hand what a watched run writes to ``sink`` until it ends.

    Args:
        session: where it runs.
        watch: as ``session.channel.begin_watch`` gave it; it is left in the end.
        sink: takes Output and Gap frames.
        due_s: how long until ``tick`` is to be called, in seconds; None for not at all.
        tick: called then.

    Raises:
        SessionLost: the container ended meanwhile.
    """
    try:
        while True:
            try:
                event = watch.events.get(timeout=look_s(due_s()))
            except queue.Empty:
                tick()
                continue
            if isinstance(event, Lost):
                raise event.error
            if isinstance(event, protocol.RunEnded):
                return event
            if isinstance(event, (protocol.Output, protocol.Gap)):
                sink(event)
    finally:
        session.channel.unwatch(watch)


def byte_range(session: Session, run: protocol.RunSummary, stream: str, start: int, end: int) -> bytes:
    """The bytes ``[start, end)`` of a stream. Raises SessionError."""
    data = bytearray()
    session.channel.read_journal(run.run_id, stream, start, end, data.extend)
    return bytes(data)
