"""What Ray's printing thread is handed, with Ray's own dispatcher and printer, and what a terminal shows of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import ray_logging, worker

from skyrl_magic.agent.kernel_ray import RayOutput
from skyrl_magic.core.ansi import render
from skyrl_magic.core.streams import Screen, Stamp

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Driver:
    """The driver's side of Ray's log stream."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        rays: Any = ray_logging  # without types
        self.dispatcher = rays.WorkerStandardStreamDispatcher()
        monkeypatch.setattr(ray_logging, "global_worker_stdstream_dispatcher", self.dispatcher)
        monkeypatch.setattr(ray_logging, "RAY_DEDUP_LOGS", False)
        self._capsys = capsys
        self.dispatcher.add_handler("print", lambda data: worker.print_to_stdstream(data, ignore_prefix=False))
        self.output = RayOutput()
        self.output.attach()

    def hand(self, process: int | str, *lines: str, **more: Any) -> None:
        """A batch of lines, as the log monitor publishes it."""
        batch = {
            "ip": "x",
            "localhost": "x",
            "pid": str(process),
            "is_err": True,
            "lines": list(lines),
            "task_name": "f",
        }
        self.dispatcher.emit({**batch, **more})

    def shown(self) -> list[str]:
        """The lines that a terminal shows, without colours."""
        screen = Screen()
        screen.feed(self._capsys.readouterr().err.encode(), Stamp(), final=True)
        return [_COLOUR.sub("", render(row.runs)).rstrip() for row in screen.rows if row.width]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Driver:
    assert not ray.is_initialized()
    return Driver(monkeypatch, capsys)


def bar(name: str, percent: int) -> str:
    return f"\r{name}: {percent:3}%|{'#' * (percent // 10):10}| {percent}/100"


def test_lines_are_printed_as_ray_prints_them(driver: Driver) -> None:
    driver.hand(7, "one", "two")
    driver.hand(8, "", "three")
    assert driver.shown() == ["(f pid=7) one", "(f pid=7) two", "(f pid=8)", "(f pid=8) three"]


def test_bars_of_two_workers_have_a_line_each(driver: Driver) -> None:
    for percent in (0, 40, 100):
        driver.hand(7, bar("a", percent) + bar("a", percent))
        driver.hand(8, bar("a", percent // 2))
    assert driver.shown() == [
        "(f pid=7) a: 100%|##########| 100/100",
        "(f pid=8) a:  50%|#####     | 50/100",
    ]


def test_a_bar_after_a_full_one_has_a_line_of_its_own(driver: Driver) -> None:
    for name in ("a", "a", "b"):
        for percent in (0, 100):
            driver.hand(7, bar(name, percent))
    assert [line.split(":")[0] for line in driver.shown()] == ["(f pid=7) a", "(f pid=7) a", "(f pid=7) b"]


def test_an_ended_bar_stays_where_it_was(driver: Driver) -> None:
    driver.hand(7, bar("a", 50))
    driver.hand(7, "")  # its line's end
    driver.hand(7, bar("a", 60))
    assert len(driver.shown()) == 2


def test_a_line_comes_below_the_bars(driver: Driver) -> None:
    driver.hand(7, bar("a", 50))
    driver.hand(8, bar("a", 60))
    driver.hand(8, "a line", bar("a", 70))
    assert [line.split()[2] for line in driver.shown()] == ["a:", "a:", "a", "a:"]


def test_the_autoscalers_reports_do_not_part_bars(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether there is such a report to show is asked of a cluster, which is not there.
    monkeypatch.setattr("ray._private.ray_constants.AUTOSCALER_EVENTS", False)
    driver.hand(7, bar("a", 50))
    driver.hand("autoscaler", "======== Autoscaler status ========", is_err=False)
    driver.hand(7, bar("a", 60))
    assert len(driver.shown()) == 1


def test_without_ray_a_cell_waits_for_nothing(tmp_path: Path) -> None:
    output = RayOutput()
    output.cell_begins()
    output.cell_ends(tmp_path)
