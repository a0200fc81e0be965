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
    """Bring a session that ran already to the limits of the request, and say how it ends then.

    A timeout or an idle timeout is set where it was said now; a budget also where the session has none, or a larger
    one. Where one of them is refused none is set.

    Args:
        session: it runs.
        request: what is asked for.
        said: the line's options.
        changed: of the notebook's settings those that count as if the line said them.

    Raises:
        SessionError: the budget is spent already, the timeout over or beyond the container's, or no answer.
    """
    there = session.status
    timeout_s = float(request.timeout_s) if _is_said("timeout_s", said, changed) else None
    if timeout_s is not None and session.is_of_earlier_version:
        note(
            f"session {session.name} was started by an earlier version, which keeps the --timeout of its start: "
            f"%skyrl_stop {session.name} ends it, and the next cell starts it anew"
        )
        timeout_s = None
    tighter = request.max_usd is not None and (not there.max_usd or request.max_usd < there.max_usd)
    wanted = {
        "timeout_s": timeout_s,
        "idle_timeout_s": float(request.idle_timeout_s) if _is_said("idle_timeout_s", said, changed) else None,
        "max_usd": request.max_usd if tighter or _is_said("max_usd", said, changed) else None,
        "usd_per_hour": request.usd_per_hour,
    }
    new = {name: value for name, value in wanted.items() if value is not None and value != getattr(there, name)}
    if not new:
        return
    session.set_limits(**new)
    if "timeout_s" in new:
        ends_in = duration_text(session.status.timeout_in_s)
        note(f"session {session.name} now ends in {ends_in} (--timeout {duration_text(request.timeout_s)})")
    if "max_usd" in new and session.status.usd_per_hour:
        note(f"session {session.name} now ends at {_budget_text(session.status)}")


def _is_said(name: str, said: Given, changed: Given) -> bool:
    return getattr(said, name) is not None or getattr(changed, name) is not None


def _budget_text(status: protocol.Status) -> str:
    """``$5 (--max-usd): $0.12 is spent, at $0.80 an hour``."""
    rate = usd_text(status.usd_per_hour)
    return f"{usd_text(status.max_usd)} (--max-usd): {usd_text(status.spent_usd)} is spent, at {rate} an hour"


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
