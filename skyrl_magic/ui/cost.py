"""What a session may cost and how long it may live, as a notebook says and shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from skyrl_magic.core import protocol
from skyrl_magic.core.gpus import Gpu
from skyrl_magic.core.options import Given
from skyrl_magic.core.prices import Price
from skyrl_magic.core.protocol.dollars import usd_text
from skyrl_magic.core.protocol.durations import duration_text
from skyrl_magic.service.owners import is_asker
from skyrl_magic.service.pricing import LOCAL, Pricing
from skyrl_magic.service.session import Session
from skyrl_magic.service.session_info import SessionInfo
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.ui.display import note

_FREE = "the local backend costs nothing: --max-usd has nothing to bound here"


def rows_of(request: SessionRequest, pricing: Pricing) -> Sequence[tuple[str, str]]:
    """What ``--dry-run`` says about cost; asks nobody."""
    free = request.spec.backend == LOCAL
    unknown = "nothing (the local backend)" if free else "not known: --usd-per-hour says it"

    def text(gpu: Gpu) -> str:
        price = pricing.known(replace(request.spec, gpu=gpu), request.usd_per_hour)
        return unknown if price is None else price_text(price)

    texts = {gpu: text(gpu) for gpu in request.spec.gpu.choices}
    one = len(set(texts.values())) == 1
    prices = next(iter(texts.values())) if one else "; ".join(f"{gpu} {text}" for gpu, text in texts.items())
    budget = "none" if request.max_usd is None else usd_text(request.max_usd)
    return [("price", prices), ("budget", budget)]


def price_text(price: Price) -> str:
    """``$0.82/h (Modal's public prices of 2026-10)``, with what is counted beside it."""
    extra = ", and CPU and memory used beyond what was asked for" if price.usd_per_core_hour else ""
    return f"{price}{extra}"


def check_budget(request: SessionRequest, pricing: Pricing) -> Sequence[str]:
    """See that the budget of a request can be kept; what is to be said of one that bounds nothing.

    Raises:
        OptionError: nobody knows what the session costs; nothing was started.
    """
    if request.max_usd is None:
        return ()
    for gpu in request.spec.gpu.choices:
        pricing.require(replace(request.spec, gpu=gpu), request.usd_per_hour)
    free = request.spec.backend == LOCAL and request.usd_per_hour is None
    return (_FREE,) if free else ()


def set_live(session: Session, request: SessionRequest, said: Given, changed: Given) -> None:
    """Bring a session that ran already to the limits of the request.

    A timeout or an idle timeout is set where it was said now, and a changed timeout is said; a budget is set also where
    the session has none, or a larger one.

    Args:
        session: it runs.
        request: what is asked for.
        said: the line's options.
        changed: of the notebook's settings those that count as if the line said them.

    Raises:
        SessionError: the budget is spent already, the timeout over or beyond the container's, or no answer.
    """
    if said.timeout_s is not None or changed.timeout_s is not None:
        _set_timeout(session, request.timeout_s)
    there = session.status
    said_now = said.max_usd is not None or changed.max_usd is not None
    tighter = request.max_usd is not None and (not there.max_usd or request.max_usd < there.max_usd)
    budget = request.max_usd if tighter or said_now else None
    price = request.usd_per_hour if request.usd_per_hour != there.usd_per_hour else None
    if (budget is not None and budget != there.max_usd) or price is not None:
        session.set_budget(budget, price)
    if said.idle_timeout_s is not None or changed.idle_timeout_s is not None:  # last: no agent refuses it
        session.set_idle_timeout(float(request.idle_timeout_s))


def _set_timeout(session: Session, timeout_s: int) -> None:
    there = session.status
    if session.is_of_earlier_version:
        note(
            f"session {session.name} was started by an earlier version, which keeps the --timeout of its start: "
            f"%skyrl_stop {session.name} ends it, and the next cell starts it anew"
        )
    elif there.timeout_s != timeout_s:
        session.set_timeout(float(timeout_s))
        ends_in = duration_text(session.status.timeout_in_s)
        note(f"session {session.name} now ends in {ends_in} (--timeout {duration_text(timeout_s)})")


def end_before(status: protocol.Status, backend: str) -> str:
    """Why the session of this name before a new one had ended, as that one knows it; your own stop is no news."""
    stopped_by = status.earlier.removeprefix("%skyrl_stop by ").removesuffix(" ended it")
    if not status.earlier or is_asker(stopped_by, backend):
        return ""
    return f"{status.earlier}, {duration_text(status.earlier_s)} ago" if status.earlier_s else status.earlier


def money_columns(found: Sequence[SessionInfo]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Columns of ``%skyrl_sessions`` about money, and each session's texts in them; none where no price is known."""
    if not any(info.usd_per_hour for info in found):
        return (), [()] * len(found)
    rows = [(f"{info.usd_per_hour:.2f}", usd_text(info.spent_usd)) if info.usd_per_hour else ("", "") for info in found]
    return ("$/h", "spent"), rows
