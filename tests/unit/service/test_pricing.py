from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

import pytest

from skyrl_magic.core.errors import BackendUnavailable, OptionError
from skyrl_magic.core.gpus import NO_GPU, Gpu
from skyrl_magic.core.spec import SessionSpec
from skyrl_magic.service import pricing
from skyrl_magic.service.pricing import Pricing

SPEC = SessionSpec("modal", Gpu("L4", 1), "image", "data", "app", ray=False)
LOCAL = replace(SPEC, backend="local")


class Account:
    """An account that is asked for its rates."""

    def __init__(self, *answers: Mapping[str, float] | Exception) -> None:
        self.answers = list(answers)

    def __call__(self, backend: str) -> Mapping[str, float]:
        assert backend == "modal"
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def source(found: Pricing, spec: SessionSpec = SPEC, said: float | None = None) -> str:
    price = found.of(spec, said)
    return "" if price is None else price.source


def test_an_account_is_asked_once() -> None:
    rates = {"gpu_hour_cost_l4": 0.5, "cpu_hour_cost_sandbox": 0.1, "mem_gib_hour_cost_sandbox": 0.01}
    found = Pricing(Account(rates))
    assert source(found) == "this account's rates"
    assert source(found, replace(SPEC, gpu=NO_GPU)) == "this account's rates"


def test_where_it_does_not_say_the_dated_table_counts() -> None:
    assert source(Pricing(Account(BackendUnavailable("no network")))) == "Modal's public prices of 2026-10"


def test_an_account_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "RATES_TIMEOUT_S", 0.1)
    hangs = threading.Event()

    def account(_: str) -> Mapping[str, float]:
        hangs.wait(60)
        return {}

    assert source(Pricing(account)) == "Modal's public prices of 2026-10"
    hangs.set()


def test_the_users_word_comes_first_on_any_backend_and_asks_nobody() -> None:
    found = Pricing(Account())
    assert source(found, SPEC, 1.5) == source(found, LOCAL, 1.5) == "your usd_per_hour"


def test_the_local_backend_costs_nothing() -> None:
    found = Pricing(Account())
    assert source(found, LOCAL) == ""
    found.require(LOCAL, None)


def test_before_anybody_was_asked_the_table_is_what_is_known() -> None:
    price = Pricing(Account()).known(SPEC, None)
    assert price is not None
    assert price.source == "Modal's public prices of 2026-10"


def test_a_budget_without_a_price_is_refused_in_one_line() -> None:
    found, spec = Pricing(Account({})), replace(SPEC, gpu=Gpu("X1", 2))
    with pytest.raises(OptionError, match=r"--max-usd: nobody knows what --gpu X1:2 costs.*--usd-per-hour"):
        found.require(spec, None)
    found.require(spec, 3.0)
