"""How sessions are found, shared, started and ended, on either backend."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import modal
import pytest

from skyrl_magic.cloud.sandboxes import ModalBackend
from skyrl_magic.core.errors import NotFound, RunStopped, SessionConflict, SessionLost
from skyrl_magic.core.gpus import parse_gpu
from skyrl_magic.core.spec import RunRequest
from skyrl_magic.service.owners import asker
from skyrl_magic.service.runs import RunService, new_run_id
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.service.sessions import SessionService
from tests.contract.conftest import (
    BACKENDS,
    Lab,
    Recorder,
    make_backend,
    make_checkout,
    make_spec,
    make_volume,
    skip_costly,
)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, modal_client: modal.Client) -> ModalBackend:
    """One backend."""
    return make_backend(request.param, modal_client)


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def request_none(request: pytest.FixtureRequest, backend: ModalBackend) -> Iterator[SessionRequest]:
    """A session without checkout, GPU and Ray, of a name of its own, on a volume of either version; ended after it."""
    spec = make_spec(backend.name, None, make_volume(backend, request.param))
    wanted = SessionRequest(spec, None, 600, f"test-{new_run_id()}")
    yield wanted
    sandbox = backend.find(wanted.spec.app, wanted.name or "")
    if sandbox is not None:
        sandbox.terminate()


def _service(backend: ModalBackend, agent_path: Path) -> SessionService:
    return SessionService(lambda _: backend, lambda: agent_path)


def _run(service: SessionService, request: SessionRequest, cell: str) -> str:
    session, _ = service.ensure(request, Recorder())
    return Lab(service, RunService(), request, session).run(cell).out


def test_two_that_start_the_same_session_at_once_get_one_container(
    backend: ModalBackend, agent_path: Path, request_none: SessionRequest
) -> None:
    services = [_service(backend, agent_path) for _ in range(3)]
    with ThreadPoolExecutor(len(services)) as pool:
        answers = list(pool.map(lambda service: service.ensure(request_none, Recorder()), services))
    try:
        assert len({session.sandbox.id for session, _ in answers}) == 1
        assert [created for _, created in answers].count(True) == 1
        listed = services[0].list(backend.name)
        assert [info.name for info in listed].count(request_none.name or "") == 1
    finally:
        for service in services:
            service.close()


def test_a_name_with_another_spec_is_a_conflict(
    backend: ModalBackend, agent_path: Path, request_none: SessionRequest
) -> None:
    first, second = _service(backend, agent_path), _service(backend, agent_path)
    first.ensure(request_none, Recorder())
    other = replace(request_none, spec=replace(request_none.spec, volume="another"))
    with pytest.raises(SessionConflict, match=r"runs with --volume skyrl-magic-contract-v\d \(asked: another\)"):
        second.ensure(other, Recorder())
    joined, created = second.ensure(replace(other, asked=frozenset()), Recorder())
    assert (joined.spec, created) == (request_none.spec, False)
    first.close()
    second.close()


@pytest.mark.parametrize("gpu", ["L4", "none"])
def test_a_session_has_five_tags_whatever_its_options(
    backend: ModalBackend, agent_path: Path, request_none: SessionRequest, gpu: str
) -> None:
    skip_costly(backend.name, gpu)
    first, second = _service(backend, agent_path), _service(backend, agent_path)
    spec = replace(request_none.spec, gpu=parse_gpu(gpu), cpu=0.5, memory_mib=512, repo="/home/somebody/far" * 20)
    session, _ = first.ensure(replace(request_none, spec=spec), Recorder())
    sandbox = backend.find(spec.app, session.name)
    assert sandbox is not None
    tags = sandbox.tags()
    assert sorted(tags) == ["owner", "session", "skyrl_magic", "spec", "started_at"]
    assert tags["spec"].startswith("sha256:")
    (row,) = (row for row in second.list(backend.name) if row.name == session.name)
    assert (row.app, row.gpu, row.repo) == (spec.app, gpu, spec.repo)
    joined, created = second.ensure(replace(request_none, asked=frozenset()), Recorder())
    assert (joined.spec, created) == (spec, False)
    first.close()
    second.close()


def test_stop_ends_the_container_and_commits(
    backend: ModalBackend, agent_path: Path, request_none: SessionRequest
) -> None:
    service = _service(backend, agent_path)
    mark = new_run_id()
    session, _ = service.ensure(request_none, Recorder())
    runs, written = RunService(), threading.Event()
    sink = Recorder()
    sink.on_event = lambda _: written.set()
    cell = RunRequest(f"echo {mark} > /root/data/{mark}; echo done; sleep 300")
    watch = runs.start(session, cell, new_run_id(), sink)
    with ThreadPoolExecutor(1) as pool:
        followed = pool.submit(runs.follow, session, cell, watch, sink)
        assert written.wait(60)
        _service(backend, agent_path).stop(backend.name, request_none.spec.app, session.name)
        # The agent reports how the run ended before it leaves, unless the container is gone first.
        error = followed.exception(60)
        by = asker(backend.name)
        assert isinstance(error, SessionLost) or followed.result().reason == f"%skyrl_stop by {by} ended it"
    assert session.sandbox.poll() is not None
    volume = modal.Volume.from_name(request_none.spec.volume, client=backend.client)
    assert b"".join(volume.read_file(mark)) == f"{mark}\n".encode()
    with pytest.raises(NotFound, match="%skyrl_sessions lists them"):
        service.stop(backend.name, request_none.spec.app, session.name)
    service.close()


def test_an_interrupted_start_leaves_no_container(
    backend: ModalBackend, agent_path: Path, request_none: SessionRequest
) -> None:
    service = _service(backend, agent_path)
    progress = Recorder()
    progress.on_phase = lambda phase: os.kill(os.getpid(), signal.SIGINT) if phase == "container" else None
    with pytest.raises(RunStopped, match="its creation is cancelled"):
        service.ensure(request_none, progress)
    service._pool.shutdown(wait=True)
    assert backend.find(request_none.spec.app, request_none.name or "") is None


def test_secrets_are_environment_variables(
    backend: ModalBackend, agent_path: Path, request_none: SessionRequest
) -> None:
    name = f"secret-{new_run_id()}"
    modal.Secret.objects.create(name, {"PROBE": "s3cret value"}, client=backend.client)
    service = _service(backend, agent_path)
    try:
        wanted = replace(request_none, spec=replace(request_none.spec, secrets=(name,)))
        assert _run(service, wanted, 'echo "$PROBE"') == "s3cret value\n"
    finally:
        modal.Secret.objects.delete(name, client=backend.client)
        service.close()


def test_a_secret_that_is_not_there_starts_nothing(
    backend: ModalBackend, agent_path: Path, request_none: SessionRequest
) -> None:
    service = _service(backend, agent_path)
    wanted = replace(request_none, spec=replace(request_none.spec, secrets=("no-such-secret",)))
    with pytest.raises(NotFound, match="no-such-secret"):
        service.ensure(wanted, Recorder())
    assert backend.find(wanted.spec.app, wanted.name or "") is None
    service.close()


def test_a_checkout_that_changes_while_it_is_uploaded_is_right_in_the_first_run(
    backend: ModalBackend, agent_path: Path, request_none: SessionRequest, tmp_path: Path
) -> None:
    checkout = make_checkout(tmp_path / "SkyRL", old_layout=False)
    target = checkout.root / "examples" / "gsm8k" / "hello.py"
    progress = Recorder()
    # The manifest is made before the first phase is told; the mount reads the files after that.

    def change(_: str) -> None:
        target.write_text("print('changed')\n")

    progress.on_phase = change
    spec = make_spec(backend.name, checkout, request_none.spec.volume)
    wanted = SessionRequest(spec, checkout, 600, request_none.name)
    service = _service(backend, agent_path)
    session, _ = service.ensure(wanted, progress)
    ran = Lab(service, RunService(), wanted, session).run("python3 examples/gsm8k/hello.py")
    assert (ran.out, ran.err) == ("changed\n", "")
    service.close()
