"""Sessions on ordinary processes; every one is ended after its test."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from skyrl_magic.agent.build import build_agent
from skyrl_magic.core import protocol
from skyrl_magic.core.gpus import NO_GPU
from skyrl_magic.core.spec import RunRequest, SessionSpec
from skyrl_magic.service.checkout import Checkout, open_checkout
from skyrl_magic.service.interrupts import Interrupts
from skyrl_magic.service.runs import RunResult, RunService
from skyrl_magic.service.session import Session
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.service.sessions import SessionService
from skyrl_magic.service.watch import payload_bytes
from tests.unit.service.processes import ProcessBackend, ProcessSandbox


class Recorder:
    """A run's sink and a session's progress that keep what they hear."""

    flush_due_s: float | None = None
    settled = True

    def __init__(self, on_event: Callable[[protocol.Message], object] = lambda _: None) -> None:
        self.events: list[protocol.Message] = []
        self.notes: list[str] = []
        self.messages: list[protocol.KernelMessage] = []
        self.phases: list[str] = []
        self.on_event = on_event

    def feed(self, event: protocol.Message) -> None:
        self.events.append(event)
        self.on_event(event)

    def tick(self) -> None:
        pass

    def flush(self) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)

    def message(self, message: protocol.KernelMessage) -> None:
        self.messages.append(message)

    def ask(self, prompt: str, *, password: bool) -> str:
        raise AssertionError(f"nobody expects {prompt!r} ({password=})")

    def begin(self, phase: str, hint: str = "") -> None:
        del hint
        self.phases.append(phase)

    def text(self, stream: str = protocol.STDOUT) -> str:
        """What was sent of a stream; fails where pieces do not abut."""
        text, at = b"", 0
        for event in self.events:
            if isinstance(event, protocol.Output) and event.stream == stream:
                assert event.offset == at
                text += payload_bytes(event)
                at += event.raw_bytes
        return text.decode()


@dataclass
class World:
    """A service over a backend, and sessions of it."""

    folder: Path
    backend: ProcessBackend
    service: SessionService
    runs: RunService = field(default_factory=RunService)
    interrupts: Interrupts = field(default_factory=Interrupts)
    _ids: Iterator[int] = field(default_factory=itertools.count)

    def request(self, checkout: Checkout | None = None, **spec: object) -> SessionRequest:
        wanted = SessionSpec(
            backend="local",
            gpu=NO_GPU,
            image="image",
            volume="data",
            app="app",
            ray=False,
            repo=str(checkout.root) if checkout else "",
        )
        return SessionRequest(replace(wanted, **spec), checkout, 600)  # type: ignore[arg-type]

    def start(self, request: SessionRequest | None = None) -> Session:
        session, _ = self.service.ensure(request or self.request(), Recorder())
        return session

    def run(
        self, session: Session, cell: str, sink: Recorder | None = None, runs: RunService | None = None, **options: str
    ) -> tuple[RunResult, Recorder]:
        """Run a cell to its end."""
        sink, runs = sink or Recorder(), runs or self.runs
        request = RunRequest(cell, **options)  # type: ignore[arg-type]
        watch = runs.start(session, request, f"run{next(self._ids)}", sink, self.interrupts)
        return runs.follow(session, request, watch, sink, self.interrupts), sink


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent's zipapp."""
    return build_agent(tmp_path_factory.mktemp("agent") / "agent.pyz")


@pytest.fixture
def world(agent: Path, tmp_path: Path) -> Iterator[World]:
    """A backend of its own for each test."""
    backend = ProcessBackend(tmp_path)
    service = SessionService(lambda _: backend, lambda: agent)
    yield World(tmp_path, backend, service)
    service.close()
    backend.close()


@pytest.fixture
def session(world: World) -> Session:
    """A session without checkout."""
    return world.start()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A small checkout."""
    root = tmp_path / "mine"
    (root / "skyrl-gym").mkdir(parents=True)
    (root / "skyrl-gym" / "gym.py").write_text("gym\n")
    (root / "pyproject.toml").write_text("[project]\n")
    return open_checkout(root)


def sandbox_of(session: Session) -> ProcessSandbox:
    """The processes behind a session."""
    assert isinstance(session.sandbox, ProcessSandbox)
    return session.sandbox
