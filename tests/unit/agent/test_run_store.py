"""Thousands of runs: all are found, the old ones packed, and what is changed in one stays."""

from __future__ import annotations

from skyrl_magic.agent.run import ENDED, PythonCell, Run
from skyrl_magic.agent.run_store import WHOLE_RUNS, RunStore
from skyrl_magic.agent.shim import RunSpec

COUNT = 2 * WHOLE_RUNS


def filled() -> tuple[RunStore, list[Run]]:
    """A store of runs that have ended, and what they were."""
    store, runs = RunStore(), []
    for number in range(COUNT):
        run = Run(
            RunSpec(f"run-{number}", f"/runs/{number}", "/w", {"A": "b"}, errexit=False), f"echo {number}", "running"
        )
        if number % 2:
            run.cell = PythonCell("/w", "--extra x", allow_stdin=True)
        run.see("notebook", (number, 1_000_000, 0))
        store.add(run)
        run.state, run.exit_code = ENDED, number
        store.end(run)
        runs.append(run)
    return store, runs


def test_all_are_there_in_order_and_as_they_were() -> None:
    store, runs = filled()
    assert store.part(0) == runs
    assert store.part(3, 5) == runs[3:5]
    assert [store.get(run.run_id) for run in runs] == runs
    assert store.get("other") is None


def test_only_the_newest_are_kept_whole() -> None:
    store, runs = filled()
    same = [store.part(number, number + 1)[0] is run for number, run in enumerate(runs)]
    assert same == [False] * (COUNT - WHOLE_RUNS) + [True] * WHOLE_RUNS


def test_what_is_changed_in_an_old_one_stays() -> None:
    store, runs = filled()
    first = store.get("run-0")
    assert first is not None
    first.see("other notebook", (7, 8, 9))
    for run in runs[1 : 1 + WHOLE_RUNS]:  # it is packed again meanwhile
        store.get(run.run_id)
    again = store.get("run-0")
    assert again is not first
    assert again == first


def test_what_goes_on_is_known_apart() -> None:
    store, runs = filled()
    going_on = Run(RunSpec("new", "/runs/new", "/w", {}, errexit=False), "sleep", "running")
    store.add(going_on)
    assert store.active == [going_on]
    assert store.going_on("new") is going_on
    assert store.going_on(runs[0].run_id) is None
    going_on.state = ENDED
    store.end(going_on)
    assert store.active == []
