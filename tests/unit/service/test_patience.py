from __future__ import annotations

import threading

import pytest

from skyrl_magic.core.errors import BackendUnavailable, NotFound
from skyrl_magic.service import patience
from skyrl_magic.service.patience import wait_for
from tests.unit.service.conftest import Recorder
from tests.unit.service.processes import DEADLINE_S


def test_an_answer_that_comes_soon_is_not_spoken_of() -> None:
    progress = Recorder()
    assert wait_for("the server", lambda: 42, progress) == 42
    assert progress.phases == []


def test_what_is_raised_comes_through() -> None:
    def refuse() -> None:
        raise NotFound("no such app")

    with pytest.raises(NotFound, match="no such app"):
        wait_for("the server", refuse, Recorder())


def test_who_is_waited_for_is_shown_until_the_answer_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "QUIET_S", 0.0)
    shown = threading.Event()
    progress = Recorder()
    progress.tick = shown.set  # type: ignore[method-assign]
    assert wait_for("Modal at https://x", lambda: shown.wait(DEADLINE_S), progress)
    assert progress.phases == ["waiting for Modal at https://x"]


def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "QUIET_S", 0.0)
    over = threading.Event()
    with pytest.raises(BackendUnavailable, match=r"Modal at https://x did not answer in 0.1s: check the network"):
        wait_for("Modal at https://x", over.wait, Recorder(), give_up_s=0.1)
    over.set()


def test_stop_does_not_wait_for_the_server() -> None:
    class Stopped(Recorder):
        def begin(self, phase: str, hint: str = "") -> None:
            raise KeyboardInterrupt(phase + hint)

    over = threading.Event()
    with pytest.raises(KeyboardInterrupt, match="waiting for the server"):
        wait_for("the server", over.wait, Stopped())
    over.set()
