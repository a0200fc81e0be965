"""Raw calls, for what Modal's public API does not reach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import modal
import pytest

from tests.loopback.making import SandboxMaker
from tests.loopback.modal_internals import RawCall, inner, on_modal_loop


@pytest.fixture
def raw_call(modal_client: modal.Client) -> RawCall:
    """``raw_call("MethodName", request)`` makes one control call through the client's stub."""

    async def run(method: str, request: Any) -> Any:
        return await getattr(inner(modal_client)._stub, method)(request)

    return lambda method, request: on_modal_loop(run(method, request))


@pytest.fixture(params=["L4", None], ids=["V1", "V2"])
def create(request: pytest.FixtureRequest, modal_client: modal.Client) -> Iterator[SandboxMaker]:
    """Makes sandboxes through either family of calls: with a GPU asked for (V1), and without (V2)."""
    maker = SandboxMaker(modal_client, request.param)
    yield maker
    maker.close()


@pytest.fixture(scope="module", params=["L4", None], ids=["V1", "V2"])
def sandbox(request: pytest.FixtureRequest, modal_client: modal.Client) -> Iterator[modal.Sandbox]:
    """A living sandbox of either family, for tests that leave it as it was."""
    maker = SandboxMaker(modal_client, request.param)
    yield maker()
    maker.close()
