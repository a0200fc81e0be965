"""A container that does not come up: what it printed, its exit code and what to do, in one line and within seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import modal
import pytest

from skyrl_magic.core import contract
from skyrl_magic.core.errors import BackendError, SessionLost
from skyrl_magic.service.runs import RunService, new_run_id
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.service.sessions import SessionService
from tests.conftest import Pretended
from tests.contract.conftest import Lab, Recorder, make_backend, make_spec

#: No timeout of ours lies below it.
SOON_S = 30.0
Start = Callable[..., Lab]


@pytest.fixture(params=["T4", "none"])
def start(
    request: pytest.FixtureRequest, modal_client: modal.Client, agent_path: Path, pretend: Pretended
) -> Iterator[Start]:
    """Starts a session with an image that is as the keywords of ``pretend.json`` say; nothing is left of it."""
    backend = make_backend("local", modal_client)
    service = SessionService(lambda _: backend, lambda: agent_path)
    image = f"example/{new_run_id()}"
    spec = replace(make_spec("local", None, gpu=request.param), image=image)
    wanted = SessionRequest(spec, None, 600, f"fault-{new_run_id()}")

    def begin(**fields: Any) -> Lab:
        pretend(images={image: fields})
        session, _ = service.ensure(wanted, Recorder())
        return Lab(service, RunService(), wanted, session)

    yield begin
    left = backend.find(*wanted.place[1:])
    if left is not None:
        left.terminate()
    service.close()


def _refused(start: Start, **fields: Any) -> str:
    began_s = time.monotonic()
    with pytest.raises((SessionLost, BackendError)) as caught:
        start(**fields)
    assert time.monotonic() - began_s < SOON_S
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_an_image_without_python(start: Start) -> None:
    says = "there is no python3 on the PATH of its image: choose an --image with Python 3.8 or newer"
    assert _refused(start, python=False).endswith(f"did not come up: the container has ended: {says}")


def test_an_image_whose_containers_do_not_start(start: Start) -> None:
    says = "it could not start (FetchSpec failed: loading container): run the cell again, and choose another --image"
    assert says in _refused(start, broken="FetchSpec failed: loading container")


def test_an_image_that_cannot_be_built(start: Start) -> None:
    assert "manifest unknown" in _refused(start, build_error="manifest unknown")


def test_an_entry_point_takes_nothing_over(start: Start) -> None:
    lab = start(entrypoint=["/bin/echo", "taken over:"])
    assert lab.run("echo mine").out == "mine\n"


def test_an_agent_that_cannot_write(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "STATE_DIR", "/dev/full/state")
    says = "its agent cannot start (Not a directory at /dev/full/state"
    assert says in _refused(start)
