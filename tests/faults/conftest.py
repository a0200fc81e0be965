"""What the faults share: a server of each module's own, so that its one sandbox is known, and a kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from skyrl_magic.loopback.daemon import ServerAddress, ensure_server, stop_server
from tests.contract.conftest import make_checkout
from tests.faults.ledger import results_folder
from tests.kernel.conftest import SETTINGS, Kernel, make_kernel

#: A full run of a fault takes minutes to an hour; the short form keeps to the bound of any test. In seconds.
_FULL_TIMEOUT_S = 7200


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bound the tests of a full run."""
    if results_folder() is not None:
        for item in items:
            if item.get_closest_marker("faults"):
                item.add_marker(pytest.mark.timeout(_FULL_TIMEOUT_S), append=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerAddress]:
    """A server of the module's own."""
    address = ensure_server(tmp_path_factory.mktemp("server") / "state", timeout_s=60)
    yield address
    stop_server(address.state_dir, timeout_s=60)


@pytest.fixture(scope="module")
def kernel(server: ServerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel in a checkout, with the extension loaded and a session that runs."""
    checkout = make_checkout(tmp_path_factory.mktemp("kernel") / "SkyRL", old_layout=False)
    kernel = make_kernel(checkout.root, server)
    kernel.run(SETTINGS)
    kernel.run("%skyrl_modal true")
    yield kernel
    kernel.close()
