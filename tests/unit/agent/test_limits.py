"""A session's timeout and budget: what is said before, and when it ends. Clocks are numbers here."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from skyrl_magic.agent.cgroup import Cgroup
from skyrl_magic.agent.config import Config
from skyrl_magic.agent.limits import Limits
from skyrl_magic.agent.spending import Spending

BEGAN = 1000.0


def config(**values: float) -> Config:
    return Config("one", "/s", "/c", "/v", **values)  # type: ignore[arg-type]


def texts(limits: Limits, at_s: float) -> list[str]:
    return [warned.text for warned in limits.news(BEGAN + at_s)]


@pytest.mark.parametrize(
    ("timeout_s", "warns_s", "ends_s", "in_text"),
    [(3600.0, 3300.0, 3600.0, "5m"), (600.0, 540.0, 600.0, "1m"), (86400.0, 86060.0, 86360.0, "5m")],
)
def test_the_timeout_is_said_before_and_ends_the_session_before_its_backend_does(
    timeout_s: float, warns_s: float, ends_s: float, in_text: str
) -> None:
    limits = Limits(config(timeout_s=timeout_s, hard_timeout_s=86400.0), BEGAN)
    assert limits.next_at(BEGAN) == BEGAN + warns_s
    assert texts(limits, warns_s - 0.1) == []
    [said] = texts(limits, warns_s)
    which = "its hard timeout, " if timeout_s == 86400.0 else "--timeout "
    assert said.startswith(f"session one ends in {in_text} ({which}")
    assert said.endswith("): its runs end then; the volume is committed")
    assert texts(limits, warns_s + 1) == []
    assert limits.next_at(BEGAN + warns_s) == BEGAN + ends_s
    assert limits.reason(BEGAN + ends_s - 0.1) == ""
    assert limits.reason(BEGAN + ends_s).startswith("its ")


def test_a_short_life_leaves_its_runs_less_time() -> None:
    limits = Limits(config(timeout_s=20.0, hard_timeout_s=20.0), BEGAN)
    assert limits.reason(BEGAN + 18) == "its hard timeout was over (20s)"  # a --timeout could not have put it off
    assert "ends in 2s (its hard timeout, 20s)" in limits.standing(BEGAN + 16)[0].text
    assert limits.grace_s(3.0) < 1.0


def test_the_timeout_changes_while_the_session_runs() -> None:
    limits = Limits(config(timeout_s=3600.0, hard_timeout_s=4 * 3600.0), BEGAN)
    [first] = limits.news(BEGAN + 3590)
    limits.set_timeout(7200.0, BEGAN + 3590)
    assert (limits.reason(BEGAN + 3700), limits.timeout_in_s(BEGAN + 3600)) == ("", 3600.0)
    [second] = limits.news(BEGAN + 7000)
    assert first.about != second.about  # so that clients say it again
    limits.set_timeout(7100.0, BEGAN + 7000)
    assert limits.reason(BEGAN + 7100) == "its time was over (--timeout 1h58m)"


@pytest.mark.parametrize(
    ("timeout_s", "says"),
    [
        (3600.0, "--timeout 1h: session one is 2h old already: give more, or end it with %skyrl_stop one"),
        (18000.0, "--timeout 5h: the container of session one ends 4h after its start, in 2h, whatever"),
        (0.0, "a timeout of 0s cannot be"),
        (float("nan"), "a timeout of nans cannot be"),
    ],
)
def test_a_timeout_that_cannot_be_is_refused(timeout_s: float, says: str) -> None:
    limits = Limits(config(timeout_s=10800.0, hard_timeout_s=4 * 3600.0), BEGAN)
    with pytest.raises(ValueError, match=f"^{says}"):
        limits.set_timeout(timeout_s, BEGAN + 7200)
    assert limits.timeout_s == 10800.0


def test_who_comes_later_hears_what_stands_in_words_of_now() -> None:
    limits = Limits(config(timeout_s=3600.0), BEGAN)
    limits.news(BEGAN + 3300)
    [standing] = limits.standing(BEGAN + 3480)
    assert (standing.about, "ends in 2m" in standing.text) == ("timeout 3600", True)


def test_the_budget_is_said_at_four_fifths_and_ends_the_session() -> None:
    limits = Limits(config(max_usd=2.0, usd_per_hour=4.0), BEGAN)  # half an hour
    assert limits.next_at(BEGAN) == pytest.approx(BEGAN + 1440)
    assert texts(limits, 1439) == []
    [said] = texts(limits, 1441)
    assert said.startswith("session one has spent $1.60 of $2 (--max-usd): it ends in about 6m, with its runs")
    assert limits.next_at(BEGAN + 1441) == pytest.approx(BEGAN + 1800)
    assert limits.reason(BEGAN + 1799) == ""
    assert limits.reason(BEGAN + 1800) == "its budget of $2 was spent (--max-usd)"


def test_a_larger_budget_goes_on_and_is_said_again() -> None:
    limits = Limits(config(max_usd=2.0, usd_per_hour=4.0), BEGAN)
    assert len(texts(limits, 1500)) == 1
    limits.set_budget(4.0, BEGAN + 1500)
    assert limits.reason(BEGAN + 1900) == ""
    assert texts(limits, 1900) == []
    assert "of $4" in texts(limits, 2900)[0]


def test_a_budget_that_is_spent_already_is_refused_with_what_to_do() -> None:
    limits = Limits(config(usd_per_hour=4.0), BEGAN)
    with pytest.raises(ValueError, match=r"session one has spent \$2 already: give a larger --max-usd, or end it with"):
        limits.set_budget(1.0, BEGAN + 1800)
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="cannot be"):
            limits.set_budget(wrong, BEGAN)
    assert limits.max_usd == 0


def test_a_price_at_which_the_budget_is_spent_is_refused_and_changes_nothing() -> None:
    limits = Limits(config(usd_per_hour=4.0, max_usd=3.0), BEGAN)
    with pytest.raises(ValueError, match=r"has spent \$4 already at \$8 an hour: give a larger --max-usd"):
        limits.set_budget(None, BEGAN + 1800, 8.0)
    assert (limits.max_usd, limits.spending.usd_per_hour) == (3.0, 4.0)
    limits.set_budget(5.0, BEGAN + 1800, 8.0)
    assert (limits.max_usd, limits.spending.usd_per_hour) == (5.0, 8.0)
    with pytest.raises(ValueError, match="a price of -1 an hour cannot be"):
        limits.set_budget(None, BEGAN + 1800, -1.0)


def test_another_price_counts_from_the_start() -> None:
    limits = Limits(config(usd_per_hour=4.0, max_usd=2.0), BEGAN)
    limits.set_budget(None, BEGAN, 1.0)
    assert limits.spending.spent_usd(BEGAN + 3600) == pytest.approx(1.0)
    assert limits.reason(BEGAN + 3600) == ""


def test_without_limits_nothing_is_due() -> None:
    limits = Limits(config(), BEGAN)
    assert (limits.reason(BEGAN + 1e6), texts(limits, 1e6), limits.timeout_in_s(BEGAN)) == ("", [], 0.0)
    assert limits.grace_s(3.0) == 3.0


# --- use beyond what was asked for ------------------------------------------------------------------------------------


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def version_2(cpu_s: float, memory_gib: float, cache_gib: float = 0.0) -> dict[str, str]:
    return {
        "cpu.stat": f"usage_usec {cpu_s * 1e6:.0f}\nuser_usec 1\n",
        "memory.current": f"{(memory_gib + cache_gib) * 2**30:.0f}\n",
        "memory.stat": f"anon 1\ninactive_file {cache_gib * 2**30:.0f}\n",
    }


def version_1(cpu_s: float, memory_gib: float, cache_gib: float = 0.0) -> dict[str, str]:
    return {
        "cpuacct/cpuacct.usage": f"{cpu_s * 1e9:.0f}\n",
        "memory/memory.usage_in_bytes": f"{(memory_gib + cache_gib) * 2**30:.0f}\n",
        "memory/memory.stat": f"cache 1\ntotal_inactive_file {cache_gib * 2**30:.0f}\n",
    }


PRICES = {"usd_per_hour": 1.0, "usd_per_core_hour": 0.1, "usd_per_gib_hour": 0.02, "cores": 2.0, "memory_gib": 4.0}


@pytest.mark.parametrize("version", [version_1, version_2])
def test_what_is_used_beyond_what_was_asked_for_is_counted(tmp_path: Path, version: object) -> None:
    files = version
    write(tmp_path, files(100.0, 1.0))  # type: ignore[operator]
    spending = Spending(config(**PRICES), BEGAN, Cgroup(tmp_path))
    write(tmp_path, files(180.0, 14.0, 50.0))  # type: ignore[operator]  # 8 threads for 10 s are 4 cores
    assert spending.next_at(BEGAN) == BEGAN + 10
    spending.sample(BEGAN + 10)
    assert spending.usd_per_hour == pytest.approx(1.0 + 2 * 0.1 + 10 * 0.02)
    assert spending.spent_usd(BEGAN + 10) == pytest.approx(1.4 / 360)
    assert spending.until(1.4, BEGAN + 10) == pytest.approx(BEGAN + 3600)


def test_less_than_asked_for_costs_what_was_asked_for(tmp_path: Path) -> None:
    write(tmp_path, version_2(0.0, 1.0))
    spending = Spending(config(**PRICES), BEGAN, Cgroup(tmp_path))
    spending.sample(BEGAN + 10)
    assert spending.usd_per_hour == 1.0


def test_where_nothing_can_be_measured_what_was_asked_for_counts(tmp_path: Path) -> None:
    spending = Spending(config(**PRICES), BEGAN, Cgroup(tmp_path))
    spending.sample(BEGAN + 10)
    assert spending.spent_usd(BEGAN + 3600) == pytest.approx(1.0)


def test_kills_for_want_of_memory_are_read_from_either_version(tmp_path: Path) -> None:
    assert Cgroup(tmp_path).oom_kills() == 0
    write(tmp_path, {"memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"})
    assert Cgroup(tmp_path).oom_kills() == 2
    write(tmp_path, {"memory.events": "low 0\noom 4\noom_kill 3\noom_group_kill 0\n"})
    assert Cgroup(tmp_path).oom_kills() == 3
