"""What all tests share: a loopback server of their own, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modal
import psutil
import pytest
from modal_proto import api_pb2

from skyrl_magic.loopback.daemon import ServerAddress, ensure_server, stop_server
from skyrl_magic.loopback.documents import write_json
from skyrl_magic.loopback.pretend import FILE_NAME
from skyrl_magic.loopback.runtime.sandboxes import COMMIT_LAG_VARIABLE


def make_client(address: ServerAddress) -> modal.Client:
    """A client of a server; the caller closes it."""
    client = modal.Client(address.url, api_pb2.CLIENT_TYPE_CLIENT, (address.token_id, address.token_secret))
    client.__enter__()  # type: ignore[no-untyped-call]
    return client


@pytest.fixture(scope="session")
def loopback_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerAddress]:
    """A server with a state directory of its own, ended with all its sandboxes after the tests.

    Its ``skyrl-data`` is of version 1, as that of who comes from SkyRL's own script is: what uses it by default (the
    kernels of ``tests/kernel``) runs on that, and what makes volumes of its own on version 2, or on both. Version 1 is
    committed twice a second, as tests wait for that.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(COMMIT_LAG_VARIABLE, "0.5")
        address = ensure_server(tmp_path_factory.mktemp("loopback"), timeout_s=60)
    client = make_client(address)
    modal.Volume.objects.create("skyrl-data", version=1, client=client)
    client.close()
    yield address
    stop_server(address.state_dir, timeout_s=60)
    assert not psutil.pid_exists(address.pid) or psutil.Process(address.pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture(scope="session")
def modal_client(loopback_server: ServerAddress) -> Iterator[modal.Client]:
    """A client of the server."""
    client = make_client(loopback_server)
    yield client
    client.close()


class Pretended:
    """What a server is told to pretend; nothing after the test."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE_NAME

    def __call__(self, **tables: dict[str, Any]) -> None:
        """Say it anew."""
        write_json(self._path, tables)

    def end(self) -> None:
        """Pretend nothing more."""
        self._path.unlink(missing_ok=True)


@pytest.fixture
def pretend(loopback_server: ServerAddress) -> Iterator[Pretended]:
    """Tells the server what to pretend."""
    pretended = Pretended(loopback_server.state_dir)
    yield pretended
    pretended.end()
