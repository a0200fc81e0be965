"""Which session a cell goes to: the one rule, as ``docs/sessions.md`` has it for users.

The *current* session is the one that the notebook named or started last. A cell stays in it if that satisfies every
option which the cell names; what it does not name does not count. A change of ``%config`` counts as if the next cell
named what has changed. Settings (``%config``, project file, environment) say where a notebook begins, and what of a new
session no line says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from skyrl_magic.core.options import OPTIONS, SETTINGS, Given
from skyrl_magic.service.contradictions import all_of, contradictions
from skyrl_magic.service.session_request import Place, SessionRequest

_FLAGS = {option.field: option.flag for option in (*OPTIONS, *SETTINGS)}


@dataclass(frozen=True)
class Used:
    """What a notebook has used so far.

    Args:
        sessions: what its sessions were asked for, the current one first, then by their last use.
        running: where those of them are that are known to run.
        config: ``%config`` as it was when the current one was chosen.
    """

    sessions: Sequence[SessionRequest]
    running: frozenset[Place]
    config: Given


@dataclass(frozen=True)
class Choice:
    """Where a cell goes."""

    request: SessionRequest
    why: str = ""
    """Why not to the current session: ``--gpu A100 is not session train's L4``."""
    otherwise: SessionRequest | None = None
    """Where it goes if the session of this name runs and contradicts the cell: settings gave the name, not a line."""


def named(line: Given, config: Given, before: Given) -> Mapping[str, str]:
    """The fields that a cell names, and how: those of its line, and those of ``%config`` that have changed since."""
    found = {}
    for name in (field.name for field in fields(Given)):
        flag = _FLAGS.get(name, "")
        if getattr(line, name) is not None:
            found[name] = flag
        elif getattr(config, name) != getattr(before, name):
            found[name] = f"%config SkyRLMagic.{flag.lstrip('-').replace('-', '_')} ="
    return found


def changes(config: Given, before: Given) -> Given:
    """What of ``%config`` is set now and was not, or not so, ``before``."""
    now = {field.name: getattr(config, field.name) for field in fields(Given)}
    return Given(**{name: value for name, value in now.items() if value != getattr(before, name)})


def choose(fresh: SessionRequest, line: Given, config: Given, begins_in: str | None, used: Used) -> Choice:
    """The session that a cell goes to.

    Args:
        fresh: what the cell's line and the settings ask for together, without a name.
        line: the options of the line.
        config: ``%config`` now.
        begins_in: the session that the settings name.
        used: what the notebook has used.
    """
    names = named(line, config, used.config)
    if line.session is not None:
        return Choice(_by_name(line.session, fresh, named(line, used.config, used.config), used))
    if not used.sessions or ("session" in names and config.session is not None):
        if begins_in is None:
            return Choice(fresh)
        return Choice(_by_name(begins_in, fresh, names, used), otherwise=fresh)
    current = used.sessions[0]
    against = contradictions(current.spec, fresh.spec, names)
    if not against:
        return Choice(_stay(current, fresh, names))
    why = all_of(against, current.name or "")
    for other in used.sessions[1:]:
        if other.place in used.running and not contradictions(other.spec, fresh.spec, names):
            return Choice(_stay(other, fresh, names), why)
    return Choice(fresh, why)


def _by_name(name: str, fresh: SessionRequest, names: Mapping[str, str], used: Used) -> SessionRequest:
    """The session of a name: one that this notebook has used is as it was, where the cell does not contradict that."""
    for request in used.sessions:
        if request.name == name and not contradictions(request.spec, fresh.spec, names):
            return _stay(request, fresh, names)
    return replace(fresh, name=name, asked=frozenset(names))


def _stay(request: SessionRequest, fresh: SessionRequest, names: Mapping[str, str]) -> SessionRequest:
    """A session that was used, with the limits that the cell names."""
    limits = {
        "idle_timeout_s": ("idle_timeout_s",),
        "timeout_s": ("timeout_s",),
        "hard_timeout_s": ("hard_timeout_s",),  # if it is started again
        "wait_s": ("wait_s",),
        "max_usd": ("max_usd",),
        "usd_per_hour": ("usd_per_hour",),
        "keep": ("keep_runs_days", "keep_runs_gb", "keep_results"),
    }
    changed = {field: getattr(fresh, field) for field, said in limits.items() if not names.keys().isdisjoint(said)}
    # If it is started again, any of the GPUs will do, and a secret that is not asked for any more stays out.
    spec = {name: getattr(fresh.spec, name) for name in ("gpu", "secrets") if name in names}
    if spec:
        changed["spec"] = replace(request.spec, **spec)
    if "hard_timeout_s" in names and "timeout_s" not in names:  # a lower one bounds what was said before it
        changed["timeout_s"] = min(request.timeout_s, fresh.hard_timeout_s)
    return replace(request, **changed)
