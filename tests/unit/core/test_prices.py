from __future__ import annotations

from dataclasses import replace

import pytest

from skyrl_magic.core.gpus import MAX_COUNTS, NO_GPU, Gpu
from skyrl_magic.core.prices import TABLE, Price, account_rates, price_of, said_price
from skyrl_magic.core.protocol.dollars import usd_text
from skyrl_magic.core.spec import SessionSpec

SPEC = SessionSpec("modal", NO_GPU, "image", "data", "app", ray=False)
SMALLEST = 0.125 * 0.1419 + 0.125 * 0.024


def usd(spec: SessionSpec) -> float:
    price = price_of(spec, TABLE)
    assert price is not None
    return price.usd_per_hour


def test_every_gpu_that_can_be_asked_for_has_a_price() -> None:
    assert all(price_of(replace(SPEC, gpu=Gpu(name, 1)), TABLE) for name in MAX_COUNTS)


@pytest.mark.parametrize(
    ("gpu", "gpus_usd"),
    [
        (NO_GPU, 0.0),
        (Gpu("L4", 1), 0.80),
        (Gpu("A100", 4), 8.40),
        (Gpu("A100-80GB", 2), 5.0),
        (Gpu("H100!", 8), 31.60),
        (Gpu("B200+", 2), 12.50),
    ],
)
def test_gpus_and_the_least_of_cpu_and_memory(gpu: Gpu, gpus_usd: float) -> None:
    assert usd(replace(SPEC, gpu=gpu)) == pytest.approx(gpus_usd + SMALLEST)


def test_what_is_asked_for_costs_and_use_beyond_it_is_to_be_measured() -> None:
    price = price_of(replace(SPEC, cpu=8.0, memory_mib=65536), TABLE)
    assert price is not None
    assert price.usd_per_hour == pytest.approx(8 * 0.1419 + 64 * 0.024)
    assert (price.cores, price.memory_gib) == (8.0, 64.0)
    assert (price.usd_per_core_hour, price.usd_per_gib_hour) == (0.1419, 0.024)
    assert str(price) == "$2.67/h (Modal's public prices of 2026-10)"


def test_an_accounts_rates_count_and_what_they_lack_is_public() -> None:
    found = {"gpu_hour_cost_a100_80gb": 2.0, "gpu_hour_cost_a10g": 1.0, "cpu_hour_cost_sandbox": 0.1, "other": 9.0}
    rates = account_rates(found | {"gpu_hour_cost_b300": 9.0})
    assert (rates.source, rates.core, rates.gib) == ("this account's rates", 0.1, 0.024)
    assert (rates.gpus["A100-80GB"], rates.gpus["A10"], rates.gpus["L4"], rates.gpus["B300"]) == (2.0, 1.0, 0.8, 9.0)


def test_an_answer_without_a_known_name_is_not_the_accounts_word() -> None:
    for found in ({}, {"gpu_second_cost_l4": 0.1, "cpu_hour_cost": 0.05}):
        price = price_of(SPEC, account_rates(found))
        assert price is not None
        assert price.source == "Modal's public prices of 2026-10; the account names its rates otherwise"
        assert price.usd_per_hour == pytest.approx(SMALLEST)


@pytest.mark.parametrize(
    ("found", "others"),
    [
        ({"gpu_hour_cost_l4": 0.5}, ", Modal's public prices of 2026-10 for CPU and memory"),
        ({"cpu_hour_cost_sandbox": 0.1, "mem_gib_hour_cost_sandbox": 0.1}, ", Modal's public prices of 2026-10 for L4"),
        ({"gpu_hour_cost_l4": 0.5, "cpu_hour_cost_sandbox": 0.1, "mem_gib_hour_cost_sandbox": 0.1}, ""),
    ],
)
def test_a_price_of_two_sources_says_both(found: dict[str, float], others: str) -> None:
    price = price_of(replace(SPEC, gpu=Gpu("L4", 1)), account_rates(found))
    assert price is not None
    assert price.source == f"this account's rates{others}"


def test_a_gpu_that_nobody_knows_has_no_price() -> None:
    assert price_of(replace(SPEC, gpu=Gpu("X1", 1)), TABLE) is None


def test_the_users_own_price_is_all_of_it() -> None:
    assert said_price(2.5) == Price("your usd_per_hour", 2.5)


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "$0"), (5.0, "$5"), (12.4, "$12.40"), (0.25, "$0.25"), (4e-4, "$0.0004")]
)
def test_dollars(amount: float, text: str) -> None:
    assert usd_text(amount) == text


@pytest.mark.parametrize(("usd", "text"), [(5.0, "$5"), (0.25, "$0.25"), (0.0004, "$0.0004"), (0.00002, "$0.000020")])
def test_no_amount_has_an_exponent(usd: float, text: str) -> None:
    assert usd_text(usd) == text
