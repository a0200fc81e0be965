"""Fixtures: the built zipapp, and sessions that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skyrl_magic.agent.build import build_agent
from tests.unit.agent.harness import Attached, Gate, Session


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent's zipapp."""
    return build_agent(tmp_path_factory.mktemp("agent") / "agent.pyz")


@pytest.fixture
def make_session(agent: Path, tmp_path: Path) -> Iterator[Callable[..., Session]]:
    """Starts supervisors; all are ended after the test."""
    sessions: list[Session] = []

    def make(**settings: object) -> Session:
        session = Session(agent, tmp_path / f"s{len(sessions)}", **settings)  # type: ignore[arg-type]
        sessions.append(session)
        return session

    yield make
    for session in sessions:
        session.close()


@pytest.fixture
def session(make_session: Callable[..., Session]) -> Session:
    """A session without Ray."""
    return make_session()


@pytest.fixture
def channel(session: Session) -> Attached:
    """A channel to :func:`session`."""
    return session.attach()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Where a script waits for the test."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.close()
