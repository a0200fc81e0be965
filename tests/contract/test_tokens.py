"""The token of the command router expires under a session: its channel goes on over another stream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import modal
import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from skyrl_magic.service.runs import RunService, new_run_id
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.service.sessions import SessionService
from tests.contract.conftest import Lab, Recorder, make_backend, make_spec, make_volume
from tests.loopback.answering import answering


@pytest.mark.parametrize(("gpu", "version"), [("L4", 1), ("none", 2)], ids=["L4-v1", "none-v2"])
def test_a_run_outlives_its_tokens(
    loopback_server: ServerAddress, modal_client: modal.Client, agent_path: Path, gpu: str, version: int
) -> None:
    backend = make_backend("local", modal_client)
    service = SessionService(lambda _: backend, lambda: agent_path)
    spec = make_spec("local", None, make_volume(backend, version), gpu=gpu)
    wanted = replace(SessionRequest(spec, None, 600), name=f"tokens-{new_run_id()}")
    with answering(loopback_server.state_dir, router_token_s=3):
        session, _ = service.ensure(wanted, Recorder())
        try:
            ran = Lab(service, RunService(), wanted, session).run("for i in $(seq 1 100); do echo $i; sleep 0.1; done")
            assert ran.out.split() == [str(i) for i in range(1, 101)]
            assert ran.result.exit_code == 0
        finally:
            service.stop("local", spec.app, session.name)
            service.close()
