"""Services over sessions that are ordinary processes, as in ``tests/unit/service``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from skyrl_magic.agent.build import build_agent
from skyrl_magic.service.runs import RunService
from skyrl_magic.service.sessions import SessionService
from skyrl_magic.ui.notebook import Services
from tests.unit.service.processes import ProcessBackend


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent's zipapp."""
    return build_agent(tmp_path_factory.mktemp("agent") / "agent.pyz")


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ProcessBackend]:
    """Where sessions come from; all are ended after the test. Its volumes have the version that a test names."""
    found = ProcessBackend(tmp_path)
    found.volume_version = getattr(request, "param", 2)
    yield found
    found.close()


@pytest.fixture
def services(backend: ProcessBackend, agent: Path) -> Iterator[Services]:
    """One notebook's services."""
    found = Services(SessionService(lambda _: backend, lambda: agent), RunService(), lambda: "local")
    yield found
    found.close()
