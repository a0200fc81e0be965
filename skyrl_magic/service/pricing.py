"""What a session will cost: the user's own word, else the account's rates, else the dated table."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping

from skyrl_magic.core.errors import BackendError, OptionError, SkyRLMagicError
from skyrl_magic.core.prices import TABLE, Price, Rates, account_rates, price_of, said_price
from skyrl_magic.core.spec import SessionSpec

#: How long a start waits for the account's rates, in seconds: they are one request.
RATES_TIMEOUT_S = 5.0
LOCAL = "local"


def _no_account(backend: str) -> Mapping[str, float]:
    raise BackendError(f"{backend}: no account")


class Pricing:
    """Knows prices.

    Args:
        account: the rates of a backend's account, by Modal's names (``core.prices``). Raises BackendError.
    """

    def __init__(self, account: Callable[[str], Mapping[str, float]] = _no_account) -> None:
        self._account = account
        self._rates: dict[str, Rates] = {}

    def known(self, spec: SessionSpec, said_usd_per_hour: float | None) -> Price | None:
        """The price as far as it is known without asking anybody; None where a session costs nothing, or nobody knows.

        Args:
            spec: the session's.
            said_usd_per_hour: the user's own price, which counts on any backend.
        """
        if said_usd_per_hour is not None:
            return said_price(said_usd_per_hour)
        return None if spec.backend == LOCAL else price_of(spec, self._rates.get(spec.backend, TABLE))

    def of(self, spec: SessionSpec, said_usd_per_hour: float | None) -> Price | None:
        """The price, for which the account is asked once. As :meth:`known` otherwise."""
        if said_usd_per_hour is None and spec.backend not in (LOCAL, *self._rates):
            self._rates[spec.backend] = self._ask(spec.backend)
        return self.known(spec, said_usd_per_hour)

    def require(self, spec: SessionSpec, said_usd_per_hour: float | None) -> None:
        """See that a budget can be kept, before anything is started.

        Raises:
            OptionError: nobody knows what the session costs.
        """
        if spec.backend != LOCAL and self.of(spec, said_usd_per_hour) is None:
            raise OptionError(
                f"--max-usd: nobody knows what --gpu {spec.gpu} costs, so no budget can be kept; "
                "--usd-per-hour (or %config SkyRLMagic.usd_per_hour) says it"
            )

    def _ask(self, name: str) -> Rates:
        """The account's rates, or the table where they cannot be had soon."""
        answers: queue.SimpleQueue[Mapping[str, float] | None] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._account(name))
            except SkyRLMagicError:
                answers.put(None)

        threading.Thread(target=ask, name="skyrl-rates", daemon=True).start()
        try:
            found = answers.get(timeout=RATES_TIMEOUT_S)
        except queue.Empty:
            found = None
        return TABLE if found is None else account_rates(found)
