"""The benchmark's arithmetic: medians, ratios, verdicts, order, phases."""

# ruff: noqa: RUF001  # the table has the signs of multiplication and of ranges

from __future__ import annotations

import pytest

from bench import cold, report, world
from bench.kernels import Cell
from bench.rows import MB, MS, Row, Series, at_most, faster, interleaved


def test_a_ratio_compares_medians_and_says_whether_the_limit_holds() -> None:
    ours, theirs = Series((0.010, 0.500, 0.008), MS), Series((0.011, 0.009, 0.020), MS)
    row = at_most("cell", ours, theirs, 1.0, "≤ 1 ×")
    assert (row.measured, row.reached) == ("0.909 ×", True)
    assert at_most("cell", theirs, ours, 1.0, "≤ 1 ×").reached is False


def test_faster_is_the_other_way_round() -> None:
    ours, theirs = Series((2.0,)), Series((9.0,))
    assert faster("cell", ours, theirs, 5, "≥ 5 × faster") == Row(
        "cell", "4.5 × faster", ours, "≥ 5 × faster", reached=False
    )
    assert faster("cell", ours, theirs, 4.5, "≥ 4.5 × faster").reached is True


@pytest.mark.parametrize(
    ("series", "text"),
    [
        (Series((0.0101, 0.5, 0.0123), MS), "10.1 – 12.3 – 500 ms"),
        (Series((1.5,)), "1.5 s"),
        (Series((41_234_567.0,), MB), "41.2 MB"),
        (Series((1234.4, 1234.6, 1300.0)), "1234 – 1235 – 1300 s"),
    ],
)
def test_a_series_is_written_with_its_unit(series: Series, text: str) -> None:
    assert str(series) == text


def test_interleaved_leaves_the_first_round_out_and_changes_the_order() -> None:
    calls: list[str] = []

    def action(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    found = interleaved(3, {name: lambda name=name: action(name) for name in "ab"})  # type: ignore[misc]
    assert "".join(calls) == "baabbaab"
    assert found == {"a": Series((3.0, 6.0, 7.0)), "b": Series((4.0, 5.0, 8.0))}


def test_phases_are_read_from_the_line_that_a_start_updates() -> None:
    lines = [(0.5, "image …"), (0.7, "image 0.2s · checkout …"), (1.6, "image 0.2s · checkout 1s …"),
             (2.0, "image 0.2s · checkout 1.3 s · Ray …"), (3.9, "session x: no GPU (image 0.2s · …")]  # fmt: skip
    assert cold.phases(Cell(took_s=4.0, displays=lines)) == pytest.approx(
        {"before": 0.5, "image": 0.2, "checkout": 1.3, "Ray": 2.0}
    )


def test_a_flood_has_lines_of_one_length() -> None:
    command = world.flood(5000)
    text = command.split("'")[1]
    assert command.endswith(" 50")
    assert len(text % 17.0) == world.LINE_BYTES - 1


def test_the_page_counts_what_was_reached_and_names_no_machine() -> None:
    rows = [Row("fast", "1 ×", asked="≤ 1 ×", reached=True), Row("slow", "2 ×", asked="≤ 1 ×", reached=False)]
    page = report.render([("Speed", [*rows, Row("seen", "3")])], 12.3, "0.1, 0.2", "4 files")
    assert "1 of 2 figures reached." in page
    assert "| slow | ≤ 1 × | 2 × | **no** |  |  |" in page
    assert "| took | 12 s |" in page
    assert str(world.ROOT) not in page
