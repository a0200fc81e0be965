"""The runs of a session. It may have thousands: those that ended long ago are kept as a few hundred bytes each."""

from __future__ import annotations

import dataclasses
import itertools
import marshal
from collections import deque
from typing import Deque, Dict, List, Optional, Union

from skyrl_magic.agent.run import PythonCell, Run
from skyrl_magic.agent.shim import RunSpec

#: So many that have ended are kept as they are: what still comes of one (its log's way to the volume) comes soon.
WHOLE_RUNS = 128


class RunStore:
    """Runs by id, oldest first."""

    def __init__(self) -> None:
        self._runs: Dict[str, Union[Run, bytes]] = {}
        self._active: Dict[str, Run] = {}
        self._ended: Deque[str] = deque()

    @property
    def active(self) -> List[Run]:
        """The runs that are not over."""
        return [*self._active.values()]

    def get(self, run_id: str) -> Optional[Run]:
        """The run of this id, or None; what is changed in it stays."""
        run = self._runs.get(run_id)
        if isinstance(run, bytes):
            run = self._runs[run_id] = _unpacked(run)
            self._keep_whole(run_id)
        return run

    def going_on(self, run_id: str) -> Optional[Run]:
        """The run of this id that is not over, or None."""
        return self._active.get(run_id)

    def part(self, first: int, end: Optional[int] = None) -> List[Run]:
        """The runs from this place on to before that one, to be read."""
        runs = itertools.islice(self._runs.values(), first, end)
        return [_unpacked(run) if isinstance(run, bytes) else run for run in runs]

    def add(self, run: Run) -> None:
        """Take a new run."""
        self._runs[run.run_id] = self._active[run.run_id] = run

    def end(self, run: Run) -> None:
        """A run is over."""
        del self._active[run.run_id]
        self._keep_whole(run.run_id)

    def _keep_whole(self, run_id: str) -> None:
        self._ended.append(run_id)
        if len(self._ended) > WHOLE_RUNS:
            oldest = self._ended.popleft()
            run = self._runs[oldest]
            if isinstance(run, Run):
                self._runs[oldest] = _packed(run)


def _packed(run: Run) -> bytes:
    cell = None if run.cell is None else dataclasses.astuple(run.cell)
    values = {**vars(run), "spec": tuple(run.spec), "cell": cell, "control": None}
    return marshal.dumps([values[field.name] for field in dataclasses.fields(Run)])


def _unpacked(data: bytes) -> Run:
    spec, *values = marshal.loads(data)  # noqa: S302  (of our own making)
    run = Run(RunSpec(*spec), *values)
    if run.cell is not None:
        run.cell = PythonCell(*run.cell)  # type: ignore[misc]  # it is a tuple here
    return run
