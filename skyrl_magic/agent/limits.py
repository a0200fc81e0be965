"""What bounds a session from its start: its timeout and its budget, with a word to everybody before either ends it.

The timeout can be changed while the session runs, up to the time at which its backend ends the container.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Set

from skyrl_magic.agent.config import Config
from skyrl_magic.agent.spending import Spending
from skyrl_magic.core.protocol.dollars import usd_text
from skyrl_magic.core.protocol.durations import duration_text

#: The session ends itself this long before its backend would kill it, in seconds, and for short lives this share
#: before. Runs that do not go take 5 s, a kernel that does not another 5 s, the last commit 24 s at most, and the
#: backend's clock began up to some seconds earlier than ours: it counts from the container's start.
MARGIN_S = 40.0
MARGIN_SHARE = 0.1
#: When its end by the timeout is said, in seconds before it, and the share for short timeouts.
WARNING_S = 300.0
WARNING_SHARE = 0.1
#: The share of the budget at which its end is said.
BUDGET_WARNING_SHARE = 0.8
_MINUTE_S = 60.0


@dataclass(frozen=True)
class Warned:
    """A warning that stands: what it is about, which a client hears of once, and when that began."""

    about: str
    text: str


def about_text(duration_s: float) -> str:
    """``45s`` or ``5m``, rounded."""
    unit_s = _MINUTE_S if duration_s >= 2 * _MINUTE_S else 1.0
    return duration_text(round(duration_s / unit_s) * unit_s)


class Limits:
    """The session's timeout and budget. Times are those of :func:`time.monotonic`.

    Args:
        config: the session.
        began: when the supervisor started.
    """

    def __init__(self, config: Config, began: float) -> None:
        self._session = config.session
        self._began = began
        self._hard_s = config.hard_timeout_s
        self._margin_s = min(MARGIN_S, MARGIN_SHARE * config.hard_timeout_s)
        self.timeout_s = config.timeout_s or config.hard_timeout_s
        """From the session's start; 0 for none."""
        self.spending = Spending(config, began)
        self.max_usd = config.max_usd
        self._told: Set[str] = set()

    def set_budget(self, max_usd: Optional[float], now: float, usd_per_hour: Optional[float] = None) -> None:
        """Change the budget of the session that runs, its price, or both; None leaves what there is.

        Raises:
            ValueError: it would be spent already, or there is no such budget or price.
        """
        if max_usd is not None and not max_usd > 0:
            raise ValueError(f"a budget of {max_usd:g} cannot be")
        if usd_per_hour is not None and not usd_per_hour >= 0:
            raise ValueError(f"a price of {usd_per_hour:g} an hour cannot be")
        spent = self.spending.spent_usd(now) if usd_per_hour is None else self.spending.spent_at(usd_per_hour, now)
        budget = self.max_usd if max_usd is None else max_usd
        if budget and spent >= budget:
            at_price = "" if usd_per_hour is None else f" at {usd_text(usd_per_hour)} an hour"
            raise ValueError(
                f"session {self._session} has spent {usd_text(spent)} already{at_price}: give a larger --max-usd, or "
                f"end it with %skyrl_stop {self._session}"
            )
        self.max_usd = budget
        if usd_per_hour is not None:
            self.spending.set_price(usd_per_hour)

    def set_timeout(self, timeout_s: float, now: float) -> None:
        """Change the timeout of the session that runs.

        Args:
            timeout_s: from the session's start.
            now: the time.

        Raises:
            ValueError: it would be over already, or is more than the backend gives the container.
        """
        if not timeout_s > 0:
            raise ValueError(f"a timeout of {timeout_s:g}s cannot be")
        age_s = now - self._began
        wanted = f"--timeout {duration_text(timeout_s)}"
        if self._hard_s and timeout_s > self._hard_s:
            left = about_text(max(self._hard_s - age_s, 0.0))
            raise ValueError(
                f"{wanted}: the container of session {self._session} ends {duration_text(self._hard_s)} after its "
                f"start, in {left}, whatever it is told now: give less, or start a new session for more"
            )
        if timeout_s <= age_s:
            raise ValueError(
                f"{wanted}: session {self._session} is {about_text(age_s)} old already: give more, or end it with "
                f"%skyrl_stop {self._session}"
            )
        self.timeout_s = timeout_s

    @property
    def _ends_at(self) -> Optional[float]:
        if not self.timeout_s:
            return None
        latest_s = self._hard_s - self._margin_s if self._hard_s else self.timeout_s
        return self._began + min(self.timeout_s, latest_s)

    @property
    def _is_hard(self) -> bool:
        """Whether it is the container's own end that comes, which nothing can put off."""
        return 0 < self._hard_s <= self.timeout_s

    @property
    def _about_timeout(self) -> str:
        return f"timeout {self.timeout_s:g}"  # a changed one is said again

    def timeout_in_s(self, now: float) -> float:
        """Seconds until the timeout ends it; 0 where it has none."""
        return 0.0 if self._ends_at is None else max(self._ends_at - now, 0.0)

    def grace_s(self, most_s: float) -> float:
        """How long the runs may take to go: ``most_s``, or less where the timeout is short."""
        return min(most_s, self._margin_s / 3) if self._hard_s else most_s

    def reason(self, now: float) -> str:
        """Why the session must end now; empty where it need not."""
        if self._ends_at is not None and now >= self._ends_at:
            hard = f"its hard timeout was over ({duration_text(self._hard_s)})"
            return hard if self._is_hard else f"its time was over (--timeout {duration_text(self.timeout_s)})"
        if self.max_usd and self.spending.spent_usd(now) >= self.max_usd:
            return f"its budget of {usd_text(self.max_usd)} was spent (--max-usd)"
        return ""

    def standing(self, now: float) -> List[Warned]:
        """What everybody should know by now."""
        found = []
        if self._ends_at is not None and now >= self._warns_at(self._ends_at):
            which = "its hard timeout," if self._is_hard else "--timeout"
            found.append(
                Warned(
                    self._about_timeout,
                    f"session {self._session} ends in {about_text(self._ends_at - now)} ({which} "
                    f"{duration_text(self.timeout_s)}): its runs end then; the volume is committed",
                )
            )
        spent = self.spending.spent_usd(now)
        if self.max_usd and spent >= BUDGET_WARNING_SHARE * self.max_usd:
            left_s = self.spending.until(self.max_usd, now) - now
            found.append(
                Warned(
                    f"budget {self.max_usd:g}",
                    f"session {self._session} has spent {usd_text(spent)} of {usd_text(self.max_usd)} (--max-usd): it "
                    f"ends in about {about_text(left_s)}, with its runs; the volume is committed",
                )
            )
        return found

    def news(self, now: float) -> List[Warned]:
        """What of that has not been said yet."""
        found = [warned for warned in self.standing(now) if warned.about not in self._told]
        self._told |= {warned.about for warned in found}
        return found

    def next_at(self, now: float) -> float:
        """When there is something to do next."""
        times = [self.spending.next_at(now)]
        if self._ends_at is not None:
            times.append(self._ends_at if self._about_timeout in self._told else self._warns_at(self._ends_at))
        if self.max_usd:
            told = f"budget {self.max_usd:g}" in self._told
            times.append(self.spending.until(self.max_usd * (1.0 if told else BUDGET_WARNING_SHARE), now))
        return min(times)

    def _warns_at(self, ends_at: float) -> float:
        return ends_at - min(WARNING_S, WARNING_SHARE * self.timeout_s)
