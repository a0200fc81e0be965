"""What is measured: series of samples, and rows of the table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MS = "ms"
S = "s"
MB = "MB"
_SCALE = {MS: 1e3, S: 1.0, MB: 1e-6}
_PLAIN = 100


@dataclass(frozen=True)
class Series:
    """Samples of one thing, in seconds or bytes; ``unit`` is how they are written."""

    samples: tuple[float, ...]
    unit: str = S

    @property
    def median(self) -> float:
        """The median, in seconds or bytes."""
        return statistics.median(self.samples)

    def __str__(self) -> str:
        numbers = (min(self.samples), self.median, max(self.samples))
        if len(self.samples) == 1:
            return amount(numbers[1], self.unit)
        return " – ".join(_number(n * _SCALE[self.unit]) for n in numbers) + f" {self.unit}"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    ``asked`` is the target in words and ``reached`` whether it was met, None where nothing is asked for.
    """

    name: str
    measured: str
    series: Series | None = None
    asked: str = ""
    reached: bool | None = None


def amount(value: float, unit: str) -> str:
    """A number of seconds or bytes in a unit."""
    return f"{_number(value * _SCALE[unit])} {unit}"


def reference(name: str, series: Series) -> Row:
    """A row that others are compared with, or that nothing is asked of."""
    return Row(name, amount(series.median, series.unit), series)


def at_most(name: str, ours: Series, theirs: Series, limit: float, asked: str) -> Row:
    """A row whose median is to be no more than ``limit`` times that of ``theirs``."""
    ratio = ours.median / theirs.median
    return Row(name, f"{ratio:.3g} ×", ours, asked, ratio <= limit)


def faster(name: str, ours: Series, theirs: Series, limit: float, asked: str) -> Row:
    """A row whose median is to be ``limit`` times as fast as that of ``theirs``."""
    ratio = theirs.median / ours.median
    return Row(name, f"{ratio:.3g} × faster", ours, asked, ratio >= limit)


def interleaved(rounds: int, actions: Mapping[str, Callable[[], float]], unit: str = S) -> dict[str, Series]:
    """Measure several things in turn, so that a noisy minute of the machine hits all of them.

    Args:
        rounds: how often, after one round that is not counted. The order changes from round to round.
        actions: each returns what it took, in seconds (or bytes).
        unit: how the samples are written.
    """
    samples: dict[str, list[float]] = {name: [] for name in actions}
    names = list(actions)
    for number in range(-1, rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            value = actions[name]()
            if number >= 0:
                samples[name].append(value)
    return {name: Series(tuple(values), unit) for name, values in samples.items()}


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= _PLAIN else f"{value:.3g}"
