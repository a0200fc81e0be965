"""What each fault did: how often it was tried, what was measured, and whether what must hold held."""

from __future__ import annotations

import json
import os
import random
import statistics
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

#: ``make faults`` sets it to the folder of its results: then each fault comes as often as the table says.
RESULTS_VARIABLE = "SKYRL_FAULTS_RESULTS"
#: The commit that is tested, as ``make faults`` knows it.
CODE_VARIABLE = "SKYRL_FAULTS_CODE"
#: A fault that breaks what must hold so often need not be tried again.
_ENOUGH_FAILURES = 5


def results_folder() -> Path | None:
    """Where the results of a full run go; None in the short form."""
    folder = os.environ.get(RESULTS_VARIABLE)
    return Path(folder) if folder else None


class Ledger:
    """The book of one fault.

    Args:
        number: its place in the table.
        fault: what is done.
        must: what must hold.
        full: how often in a full run.
        short: how often in the short form.
    """

    def __init__(self, number: int, fault: str, must: str, *, full: int, short: int) -> None:
        self.number, self.fault, self.must = number, fault, must
        self._results = results_folder()
        self.times = short if self._results is None else full
        self.tried = 0
        self.failures: list[str] = []
        self.notes: list[str] = []
        """What else was seen, in words."""
        self._figures: dict[tuple[str, str], list[float]] = {}
        self._began = time.monotonic()
        self._load = os.getloadavg()[0]

    @property
    def is_full(self) -> bool:
        """Whether this is a full run."""
        return self._results is not None

    def rng(self) -> random.Random:
        """A source of chance, whose seed is kept with the results."""
        seed = random.SystemRandom().randrange(1 << 32)
        self.note(f"seed {seed}")
        return random.Random(seed)  # noqa: S311 - to be repeated, not a secret

    def note(self, text: str) -> None:
        """Keep one line about the fault, and show it with a test that fails."""
        self.notes.append(text)
        print(text)  # noqa: T201

    def figure(self, name: str, value: float, unit: str = "") -> None:
        """Note a measured value."""
        self._figures.setdefault((name, unit), []).append(value)

    def __iter__(self) -> Iterator[int]:
        """The numbers of the tries; the book is closed behind the last one."""
        for number in range(self.times):
            if len(self.failures) >= _ENOUGH_FAILURES:
                break
            self.tried += 1
            yield number
        self.close()

    @contextmanager
    def trial(self) -> Iterator[None]:
        """One try. In a full run one that fails is noted, and the next one comes."""
        try:
            yield
        except Exception as error:
            if self._results is None:
                raise
            lines = traceback.format_exc().splitlines()
            self.failures.append(f"try {self.tried}: {error!s:.500}")
            print(*lines, sep="\n")  # noqa: T201 - pytest shows it with the failed test

    def close(self) -> None:
        """Write the results of a full run, and fail where something did not hold."""
        if self._results is not None:
            self._results.mkdir(parents=True, exist_ok=True)
            file = self._results / f"{self.number:02}.json"
            file.write_text(json.dumps(self._document(), indent=1, ensure_ascii=False), encoding="utf-8")
        assert not self.failures, "\n".join(self.failures)

    def _document(self) -> dict[str, object]:
        return {
            "number": self.number,
            "fault": self.fault,
            "must": self.must,
            "asked": self.times,
            "tried": self.tried,
            "failures": self.failures,
            "figures": [_figure(name, unit, values) for (name, unit), values in self._figures.items()],
            "notes": self.notes,
            "took_s": time.monotonic() - self._began,
            "on": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "load": f"{self._load:.1f}, {os.getloadavg()[0]:.1f}",
            "code": os.environ.get(CODE_VARIABLE, ""),
        }


def _figure(name: str, unit: str, values: list[float]) -> dict[str, object]:
    return {
        "name": name,
        "unit": unit,
        "count": len(values),
        "min": min(values),
        "median": statistics.median(values),
        "max": max(values),
        "sum": sum(values),
    }
