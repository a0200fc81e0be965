"""What is said of a session whose container its backend has ended under a run."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import modal
import pytest

from skyrl_magic.core.spec import RunRequest
from skyrl_magic.loopback.daemon import ServerAddress
from skyrl_magic.service.runs import RunService, new_run_id
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.service.sessions import SessionService
from tests.contract.conftest import Recorder, make_backend, make_spec, make_volume
from tests.loopback.answering import answering

DEADLINE_S = 60


@pytest.mark.parametrize(
    ("status", "message", "says"),
    [
        ("MEMORY_MANAGER_EVICTION", "", "it was evicted"),
        ("TERMINATED", "the worker was preempted", "it was preempted"),
    ],
)
@pytest.mark.parametrize(("gpu", "version"), [("L4", 1), ("none", 2)], ids=["L4-v1", "none-v2"])
def test_the_backend_says_why(  # noqa: PLR0913, PLR0917  (fixtures and parameters)
    loopback_server: ServerAddress,
    modal_client: modal.Client,
    agent_path: Path,
    gpu: str,
    version: int,
    status: str,
    message: str,
    says: str,
) -> None:
    backend = make_backend("local", modal_client)
    service, runs, sink = SessionService(lambda _: backend, lambda: agent_path), RunService(), Recorder()
    spec = make_spec("local", None, make_volume(backend, version), gpu=gpu)
    session, _ = service.ensure(SessionRequest(spec, None, 600, f"ends-{new_run_id()}"), Recorder())
    begun = threading.Event()
    sink.on_event = lambda _: begun.set()
    cell = RunRequest("echo begun; exec sleep 300")
    watch = runs.start(session, cell, new_run_id(), sink)
    with ThreadPoolExecutor(1) as pool, answering(loopback_server.state_dir, killed_as=status, killed_because=message):
        followed = pool.submit(runs.follow, session, cell, watch, sink)
        assert begun.wait(DEADLINE_S)
        session.sandbox.terminate()
        followed.exception(DEADLINE_S)
    assert session.channel.gone.wait(DEADLINE_S)
    assert str(session.channel.lost).startswith(f"the container has ended: {says}")
    service.close()
