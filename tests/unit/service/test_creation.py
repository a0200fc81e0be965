from __future__ import annotations

from concurrent.futures import Future

import pytest

from skyrl_magic.service import creation


class Patience:
    """Progress that ends the future it watches when its time is shown."""

    def __init__(self, future: Future[str]) -> None:
        self.heard: list[str] = []
        self._future = future

    def begin(self, phase: str) -> None:
        self.heard.append(phase)

    def tick(self) -> None:
        self.heard.append("tick")
        self._future.set_result("done")


def test_what_takes_its_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creation, "PATIENCE_S", 0.0)
    future: Future[str] = Future()
    progress = Patience(future)
    assert creation.follow_call(future, progress, "connecting") == "done"
    assert progress.heard == ["connecting", "tick"]


def test_what_is_quick_is_not_told() -> None:
    future: Future[str] = Future()
    future.set_result("done")
    progress = Patience(future)
    assert creation.follow_call(future, progress, "connecting") == "done"
    assert progress.heard == []


def test_its_error_comes_through() -> None:
    future: Future[str] = Future()
    future.set_exception(TimeoutError("late"))
    with pytest.raises(TimeoutError, match="late"):
        creation.follow_call(future, Patience(future), "connecting")
