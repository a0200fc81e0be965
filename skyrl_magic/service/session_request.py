"""What a magic asks for, and whether a session that runs is that."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from skyrl_magic.core.errors import OptionError, SessionConflict
from skyrl_magic.core.spec import DEFAULT_HARD_TIMEOUT_S, DEFAULT_KEEP, DEFAULT_TIMEOUT_S, KeepRuns, SessionSpec
from skyrl_magic.core.values import duration_text
from skyrl_magic.service.checkout import Checkout, CheckoutReader
from skyrl_magic.service.contradictions import all_of, contradictions
from skyrl_magic.service.owners import owner
from skyrl_magic.service.session import Session
from skyrl_magic.service.settings import Resolved
from skyrl_magic.service.sync import CheckoutSync

#: Where a session is: backend, app and name.
Place = tuple[str, str, str]


@dataclass(frozen=True)
class SessionRequest:
    """What a magic asks for."""

    spec: SessionSpec
    checkout: Checkout | None
    idle_timeout_s: int
    name: str | None = None
    asked: frozenset[str] | None = None
    """The fields of the spec in which a running session of the name must agree; None for all of them."""
    timeout_s: int = DEFAULT_TIMEOUT_S
    """When its supervisor ends it, from its start."""
    hard_timeout_s: int = DEFAULT_HARD_TIMEOUT_S
    """When its backend does, whatever its supervisor is told later."""
    wait_s: int | None = None
    """How long each GPU is waited for; None for the default."""
    max_usd: float | None = None
    """The budget that ends it."""
    usd_per_hour: float | None = None
    """What an hour costs, where the user says so."""
    keep: KeepRuns = DEFAULT_KEEP
    """What stays of its runs on the volume."""

    @property
    def place(self) -> Place:
        """Where its session is, or would be."""
        return self.spec.backend, self.spec.app, self.name or self.spec.default_name(owner(self.spec.backend).id)

    def at(self, place: Place) -> SessionRequest:
        """The request for a session that runs, as it is."""
        backend, app, name = place
        spec = replace(self.spec, backend=backend, app=app)
        return replace(self, spec=spec, name=name, asked=frozenset())


def request_of(resolved: Resolved) -> SessionRequest:
    """The session that a line and the settings ask for together, without a name."""
    return SessionRequest(
        resolved.spec,
        resolved.checkout,
        resolved.idle_timeout_s,
        timeout_s=resolved.timeout_s,
        hard_timeout_s=resolved.hard_timeout_s,
        wait_s=resolved.wait_s,
        max_usd=resolved.max_usd,
        usd_per_hour=resolved.usd_per_hour,
        keep=resolved.keep,
    )


def check_timeouts(request: SessionRequest) -> None:
    """Raises OptionError where a session that is to be started would end before its timeout.

    One that runs has the hard timeout of its own start, which its agent knows: settings of today say nothing about it.
    """
    if request.timeout_s > request.hard_timeout_s:
        timeout, hard = duration_text(request.timeout_s), duration_text(request.hard_timeout_s)
        raise OptionError(
            f"--timeout {timeout}: the container ends {hard} after its start at the latest "
            "(%config SkyRLMagic.hard_timeout)"
        )


def check_spec(session: Session, request: SessionRequest) -> None:
    """Raises SessionConflict where the session does not satisfy what is asked for."""
    names = request.asked if request.asked is not None else [field.name for field in fields(SessionSpec)]
    found = contradictions(session.spec, request.spec, names)
    if found:
        differences = ", ".join(contradiction.of_one_that_runs() for contradiction in found)
        raise SessionConflict(
            f"session {session.name} runs with {differences}: "
            "leave the options out to use it, or choose another --session NAME",
            all_of(found, session.name),
        )


def bring_checkout(session: Session, request: SessionRequest) -> None:
    """Let the session's checkout be kept in step; it may have been joined by who did not have it."""
    if session.sync is None and request.checkout is not None and session.spec.repo == str(request.checkout.root):
        session.sync = CheckoutSync(CheckoutReader(request.checkout))
