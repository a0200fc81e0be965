"""Real Ray in a session: begun at boot, waited for by runs, seen through the address in the environment."""

from __future__ import annotations

from dataclasses import replace
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
    with_ray = SessionRequest(replace(make_spec(name, None, ray=True), cpu=1.0), None, 600, f"ray-{new_run_id()}")
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
        assert "/1.0 CPU" in sink.text(), "Ray has not what was asked for"
        assert session.wait_for_ray(Recorder()).ray == "ready"
        assert Lab(service, runs, with_ray, session).run("echo $RAY_ADDRESS").out == "auto\n"
        counted = Lab(service, runs, with_ray, session).run(_COUNT)
        assert counted.out.split() == ["285", "1"], counted.err
        other, _ = service.ensure(without, Recorder())
        look = "import ray; ray.init(logging_level='ERROR', num_cpus=1); print(ray.cluster_resources()['CPU'])"
        alone = Lab(service, runs, without, other).run(f'python3 -c "{look}"')
        # It looks for no cluster, so it has one of its own for as long as the driver lives.
        assert (alone.result.exit_code, alone.out) == (0, "1.0\n"), alone.err
    finally:
        for request in (with_ray, without):
            sandbox = backend.find(request.spec.app, request.name or "")
            if sandbox is not None:
                sandbox.terminate()
        service.close()
