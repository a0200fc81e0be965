"""Real Ray in a session: begun at boot, waited for by runs, seen through the address in the environment."""

from __future__ import annotations

from pathlib import Path

import modal
import pytest

from skyrl_magic.core.protocol import RunWaiting
from skyrl_magic.core.spec import RunRequest
from skyrl_magic.service.runs import RunService, new_run_id
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.service.sessions import SessionService
from tests.contract.conftest import BACKENDS, Lab, Recorder, make_backend, make_spec

_COUNT = """
python3 - <<'END'
import ray
ray.init(logging_level="ERROR")
@ray.remote
def square(x):
    return x * x
print(sum(ray.get([square.remote(i) for i in range(10)])), len(ray.nodes()))
END
"""


@pytest.mark.ray
@pytest.mark.parametrize("name", BACKENDS)
def test_ray(name: str, modal_client: modal.Client, agent_path: Path) -> None:
    backend = make_backend(name, modal_client)
    service, runs = SessionService(lambda _: backend, lambda: agent_path), RunService()
    with_ray = SessionRequest(make_spec(name, None, ray=True), None, 600, f"ray-{new_run_id()}")
    without = SessionRequest(make_spec(name, None), None, 600, f"noray-{new_run_id()}")
    try:
        session, _ = service.ensure(with_ray, Recorder())
        # A run that is asked for while Ray starts waits for it, without a word of ours to the contrary.
        sink, cell = Recorder(), RunRequest("ray status")
        watch = runs.start(session, cell, new_run_id(), sink)
        first = watch.events.get(timeout=60)
        watch.events.put(first)
        assert isinstance(first, RunWaiting)
        assert first.reason == "ray"
        result = runs.follow(session, cell, watch, sink)
        assert result.exit_code == 0, sink.text("stderr")
        assert "CPU" in sink.text()
        assert session.wait_for_ray(Recorder()).ray == "ready"
        counted = Lab(service, runs, with_ray, session).run(_COUNT)
        assert counted.out.split() == ["285", "1"], counted.err
        other, _ = service.ensure(without, Recorder())
        alone = Lab(service, runs, without, other).run("python3 -c 'import ray; ray.init(logging_level=\"ERROR\")'")
        assert alone.result.exit_code != 0, "a session without Ray reached another session's"
    finally:
        for request in (with_ray, without):
            sandbox = backend.find(request.spec.app, request.name or "")
            if sandbox is not None:
                sandbox.terminate()
        service.close()
