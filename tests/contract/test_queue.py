"""A GPU that is not free yet: who waits for it sees that, nobody else waits, and Stop leaves nothing that is billed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import modal
import pytest

from skyrl_magic.cloud.sandboxes import ModalBackend
from skyrl_magic.core.errors import NoCapacity, RunStopped, SessionError, SessionLost
from skyrl_magic.core.gpus import parse_gpu
from skyrl_magic.loopback.daemon import ServerAddress
from skyrl_magic.service import attempt
from skyrl_magic.service.run_list import known_runs
from skyrl_magic.service.runs import RunService, new_run_id
from skyrl_magic.service.session import Session
from skyrl_magic.service.session_info import QUEUED
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.service.sessions import SessionService
from tests.conftest import Pretended
from tests.contract.conftest import Lab, Recorder, make_backend, make_spec
from tests.loopback.answering import answering
from tests.loopback.making import DEADLINE_S, until

NEVER = {"wait_s": None}


class Start:
    """A session's start in a thread of its own, as in another notebook."""

    def __init__(self, service: SessionService, request: SessionRequest, pool: ThreadPoolExecutor) -> None:
        self.progress = Recorder()
        self.waits = threading.Event()
        self.progress.on_phase = lambda phase: self.waits.set() if phase.startswith("waiting for") else None
        self.session = pool.submit(lambda: service.ensure(request, self.progress)[0])


@pytest.fixture
def backend(modal_client: modal.Client, monkeypatch: pytest.MonkeyPatch) -> ModalBackend:
    """The local backend; a queue is spoken of at once."""
    monkeypatch.setattr(attempt, "QUEUE_SAID_S", 0.0)
    return make_backend("local", modal_client)


@pytest.fixture
def make_service(backend: ModalBackend, agent_path: Path) -> Iterator[Callable[[], SessionService]]:
    """Services of different notebooks."""
    services = []

    def make() -> SessionService:
        services.append(SessionService(lambda _: backend, lambda: agent_path))
        return services[-1]

    yield make
    for service in services:
        service.close()


@pytest.fixture
def wanted(backend: ModalBackend) -> Iterator[SessionRequest]:
    """A session with a T4, of a name of its own; ended after the test."""
    request = SessionRequest(make_spec("local", None, gpu="T4"), None, 600, f"queued-{new_run_id()}")
    yield request
    left = backend.find(*request.place[1:])
    if left is not None:
        left.terminate()


def test_a_queued_session_is_said_and_starts_when_its_machine_comes(
    make_service: Callable[[], SessionService], wanted: SessionRequest, pretend: Pretended
) -> None:
    pretend(machines={"T4": NEVER})
    service = make_service()
    with ThreadPoolExecutor(1) as pool:
        start = Start(service, wanted, pool)
        assert start.waits.wait(DEADLINE_S)
        assert start.progress.phases == ["image", "checkout", "container", "waiting for a T4"]
        pretend.end()
        session = start.session.result(DEADLINE_S)
    assert Lab(service, RunService(), wanted, session).run("echo there").out == "there\n"
    service.stop(*wanted.place)


@pytest.mark.parametrize(("gpu", "says"), [("T4", "waited for a T4"), ("none", "waited for a machine")])
def test_stop_cancels_what_is_queued(  # noqa: PLR0913, PLR0917  (fixtures)
    backend: ModalBackend,
    make_service: Callable[[], SessionService],
    wanted: SessionRequest,
    pretend: Pretended,
    gpu: str,
    says: str,
) -> None:
    pretend(machines={gpu: NEVER})
    request = SessionRequest(make_spec("local", None, gpu=gpu), None, 600, wanted.name)
    progress = Recorder()
    progress.on_phase = lambda phase: os.kill(os.getpid(), signal.SIGINT) if phase.startswith("waiting") else None
    with pytest.raises(RunStopped, match=f"{says}; its creation is cancelled"):
        make_service().ensure(request, progress)
    assert backend.find(*request.place[1:]) is None  # at once, and also when the machine comes
    pretend.end()
    assert backend.find(*request.place[1:]) is None


def test_stop_while_the_server_still_answers(
    backend: ModalBackend, make_service: Callable[[], SessionService], wanted: SessionRequest, pretend: Pretended
) -> None:
    """The client has no id yet, and the server makes the sandbox all the same."""
    pretend(machines={"T4": {"slow_s": 1, "wait_s": None}})
    progress = Recorder()
    progress.on_phase = lambda phase: os.kill(os.getpid(), signal.SIGINT) if phase == "container" else None
    with pytest.raises(RunStopped, match="was starting; its creation is cancelled"):
        make_service().ensure(wanted, progress)
    late = next(thread for thread in threading.enumerate() if thread.name == "skyrl-late")
    late.join(DEADLINE_S)
    assert backend.find(*wanted.place[1:]) is None


def test_stop_where_the_server_does_not_say_what_it_has(  # noqa: PLR0913, PLR0917  (fixtures)
    backend: ModalBackend,
    make_service: Callable[[], SessionService],
    wanted: SessionRequest,
    pretend: Pretended,
    loopback_server: ServerAddress,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is looked for until the server says it."""
    monkeypatch.setenv("MODAL_MAX_THROTTLE_WAIT", "0")
    pretend(machines={"T4": {"slow_s": 1, "wait_s": None}})
    progress = Recorder()
    says = "was starting; its container is being ended, %skyrl_sessions shows whether it is gone"
    with contextlib.ExitStack() as trouble:

        def on_phase(phase: str) -> None:
            if phase == "container":
                methods = ["SandboxGetFromName", "SandboxGetFromNameV2"]
                trouble.enter_context(answering(loopback_server.state_dir, throttled=methods))
                os.kill(os.getpid(), signal.SIGINT)

        progress.on_phase = on_phase
        with pytest.raises(RunStopped, match=says):
            make_service().ensure(wanted, progress)
    late = next(thread for thread in threading.enumerate() if thread.name == "skyrl-late")
    late.join(DEADLINE_S)
    assert backend.find(*wanted.place[1:]) is None


def test_nobody_waits_for_a_queued_session(
    make_service: Callable[[], SessionService], wanted: SessionRequest, pretend: Pretended
) -> None:
    pretend(machines={"T4": NEVER})
    service, other = make_service(), make_service()
    with ThreadPoolExecutor(1) as pool:
        start = Start(service, wanted, pool)
        assert start.waits.wait(DEADLINE_S)
        (row,) = [info for info in other.list("local") if info.name == wanted.name]
        assert (row.state, row.gpu) == (QUEUED, "T4")
        assert known_runs(other, wanted).silent == []
        with pytest.raises(SessionError, match="waits for a T4, which is not free yet; %skyrl_stop queued-"):
            other.join(wanted)
        other.stop(*other.locate(*wanted.place))
        with pytest.raises(SessionLost, match=f"session {wanted.name} was stopped while it waited"):
            start.session.result(DEADLINE_S)


def test_another_notebook_waits_with_it(
    make_service: Callable[[], SessionService], wanted: SessionRequest, pretend: Pretended
) -> None:
    pretend(machines={"T4": NEVER})
    with ThreadPoolExecutor(2) as pool:
        starts = [Start(make_service(), wanted, pool)]
        assert starts[0].waits.wait(DEADLINE_S)
        starts.append(Start(make_service(), wanted, pool))
        assert starts[1].waits.wait(DEADLINE_S)
        assert starts[1].progress.phases == ["waiting for a T4"]
        pretend.end()
        sessions: list[Session] = [start.session.result(DEADLINE_S) for start in starts]
    assert len({session.sandbox.id for session in sessions}) == 1


def test_a_notebook_that_is_left_cancels_what_is_queued(
    backend: ModalBackend, make_service: Callable[[], SessionService], wanted: SessionRequest, pretend: Pretended
) -> None:
    pretend(machines={"T4": NEVER})
    service = make_service()
    with ThreadPoolExecutor(1) as pool:
        start = Start(service, wanted, pool)
        assert start.waits.wait(DEADLINE_S)
        service.close()
        with pytest.raises(RunStopped):
            start.session.result(DEADLINE_S)
    until(lambda: backend.find(*wanted.place[1:]) is None)


def test_a_refusal_is_no_capacity(
    make_service: Callable[[], SessionService], wanted: SessionRequest, pretend: Pretended
) -> None:
    pretend(machines={"T4": {"refuse": "this workspace has 10 GPUs in use"}})
    instead = r"what could be asked for instead: others too \(--gpu T4,A10,L4\), more patience"
    with pytest.raises(NoCapacity, match=f"this workspace has 10 GPUs in use; .*; {instead}"):
        make_service().ensure(wanted, Recorder())


def _either(wanted: SessionRequest, *, wait_s: int | None = 1) -> SessionRequest:
    """The same session, with any of three GPUs."""
    return replace(wanted, spec=replace(wanted.spec, gpu=parse_gpu("H200,T4:2,T4")), wait_s=wait_s, name=None)


def test_the_next_gpu_is_tried_and_the_session_is_found_again(
    backend: ModalBackend, make_service: Callable[[], SessionService], wanted: SessionRequest, pretend: Pretended
) -> None:
    pretend(machines={"H200": NEVER, "T4:2": {"refuse": "no two T4 are left"}})
    request, progress, service = _either(wanted), Recorder(), make_service()
    session, created = service.ensure(request, progress)
    try:
        assert (created, str(session.spec.gpu)) == (True, "T4")
        assert session.name.startswith("h200-or-t4x2-or-t4-")
        assert progress.notes[0] == "an H200 was not free within 1s: trying 2 T4"
        assert progress.notes[1].endswith("trying a T4")
        assert "no two T4 are left" in progress.notes[1]
        sandboxes = [sandbox for sandbox in backend.list({"session": session.name}) if sandbox.poll() is None]
        assert len(sandboxes) == 1
        for other in (service, make_service()):
            again, created = other.ensure(request, Recorder())
            assert (again.sandbox.id, created, str(again.spec.gpu)) == (session.sandbox.id, False, "T4")
    finally:
        service.stop(*request.place)


def test_no_gpu_of_several_is_one_line(
    backend: ModalBackend, make_service: Callable[[], SessionService], wanted: SessionRequest, pretend: Pretended
) -> None:
    pretend(machines={"*": NEVER})
    request = _either(wanted)
    says = r"a T4 was not free within 1s; what could be asked for instead: others too \(--gpu H200,T4:2,T4,A10,L4\)"
    with pytest.raises(NoCapacity, match=says):
        make_service().ensure(request, Recorder())
    assert backend.find(*request.place[1:]) is None
