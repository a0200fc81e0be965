from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from skyrl_magic.core.cancel import Cancel
from skyrl_magic.core.errors import AlreadyExists, BackendError, BackendUnavailable, NoCapacity, RunStopped
from skyrl_magic.core.ports import SandboxRequest
from skyrl_magic.service import attempt
from tests.unit.service.conftest import Recorder, World
from tests.unit.service.processes import DEADLINE_S, ProcessBackend, ProcessSandbox


class Stopped(Recorder):
    """Who presses Stop when the container is being made."""

    def begin(self, phase: str, hint: str = "") -> None:
        super().begin(phase, hint)
        if phase == "container":
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (BackendUnavailable("no network"), "its container is being ended, %skyrl_sessions shows whether it is gone"),
        (BackendError("looking for session one: internal error"), "its container is being ended"),
        (NoCapacity("no GPU"), "its creation is cancelled"),
        (AlreadyExists("there is one"), "its creation is cancelled"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_stop_says_what_is_known(world: World, error: BackendError, says: str) -> None:
    def fail(phase: str) -> None:
        if phase == "container":
            raise error

    world.backend.before = fail
    with pytest.raises(RunStopped, match=says):
        world.service.ensure(world.request(), Stopped())


def test_what_held_a_creation_up_is_said_once_and_then_its_machine(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "QUEUE_SAID_S", 0.0)
    monkeypatch.setattr(attempt, "TOLD_AGAIN_S", 0.0)
    monkeypatch.setattr(attempt, "TICK_S", 0.01)
    waits = threading.Event()
    create = ProcessBackend.create

    def held_up(
        self: ProcessBackend, request: SandboxRequest, on_phase: Callable[[str], None], cancel: Cancel
    ) -> ProcessSandbox:
        for phase in ("container", "throttled", "throttled"):
            on_phase(phase)
        assert waits.wait(DEADLINE_S)
        on_phase("throttled")
        return create(self, request, lambda _: None, cancel)

    class Waits(Recorder):
        def begin(self, phase: str, hint: str = "") -> None:
            super().begin(phase, hint)
            if phase.startswith("waiting for") and hint:
                waits.set()

    monkeypatch.setattr(ProcessBackend, "create", held_up)
    progress = Waits()
    world.service.ensure(world.request(), progress)
    assert "waiting for a machine" in progress.phases
    assert progress.phases.count("throttled") <= 1
