"""Sessions on every backend that can be had, through the services that the magics use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import modal
import pytest

from skyrl_magic.agent.build import build_agent
from skyrl_magic.cloud.client import account_client
from skyrl_magic.cloud.sandboxes import ModalBackend
from skyrl_magic.core import protocol
from skyrl_magic.core.gpus import parse_gpu
from skyrl_magic.core.spec import RunRequest, SessionSpec
from skyrl_magic.loopback.runtime.spec import MACHINE_LOCK, MAILBOX
from skyrl_magic.service.checkout import Checkout, open_checkout
from skyrl_magic.service.interrupts import Interrupts
from skyrl_magic.service.runs import RunResult, RunService, new_run_id
from skyrl_magic.service.session import Session
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.service.sessions import SessionService
from skyrl_magic.service.watch import payload_bytes

BACKENDS = ["local", *(["modal"] if os.environ.get("SKYRL_MAGIC_LIVE") == "1" else [])]


class Recorder:
    """A run's sink and a session's progress that keep what they hear."""

    flush_due_s: float | None = None
    settled = True

    def __init__(self) -> None:
        self.events: list[protocol.Message] = []
        self.notes: list[str] = []
        self.messages: list[protocol.KernelMessage] = []
        self.phases: list[str] = []
        self.on_event: Callable[[protocol.Message], None] = lambda _: None
        self.on_phase: Callable[[str], None] = lambda _: None

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
        self.on_phase(phase)

    def text(self, stream: str = protocol.STDOUT) -> str:
        """What was sent of a stream."""
        parts = [payload_bytes(e) for e in self.events if isinstance(e, protocol.Output) and e.stream == stream]
        return b"".join(parts).decode()


@dataclass
class Ran:
    """A finished run and what it showed."""

    result: RunResult
    sink: Recorder

    @property
    def out(self) -> str:
        return self.sink.text()

    @property
    def err(self) -> str:
        return self.sink.text(protocol.STDERR)


@dataclass
class Lab:
    """One session of the suite."""

    service: SessionService
    runs: RunService
    request: SessionRequest
    session: Session
    phases: list[str] = field(default_factory=list)

    def run(self, cell: str, *, sink: Recorder | None = None, **options: object) -> Ran:
        """Run a cell's text to its end."""
        sink = sink or Recorder()
        request = replace(RunRequest(cell), **options)  # type: ignore[arg-type]
        with Interrupts() as interrupts:
            watch = self.runs.start(self.session, request, new_run_id(), sink, interrupts)
            return Ran(self.runs.follow(self.session, request, watch, sink, interrupts), sink)


def make_checkout(root: Path, *, old_layout: bool) -> Checkout:
    """A small checkout of either layout, with what a mount loses: a symlink, a mode, an empty folder."""
    project = root / "skyrl-train" if old_layout else root
    (project / "examples" / "gsm8k").mkdir(parents=True)
    (project / "pyproject.toml").write_text("[project]\nname = 'skyrl'\n")
    (project / "examples" / "gsm8k" / "hello.py").write_text("print('hello from gsm8k')\n")
    script = project / "examples" / "run.sh"
    script.write_text("#!/bin/bash\necho ran in $PWD\n")
    script.chmod(0o755)
    (project / "examples" / "link.py").symlink_to("gsm8k/hello.py")
    (root / "skyrl-gym" / "skyrl_gym").mkdir(parents=True)
    (root / "skyrl-gym" / "pyproject.toml").write_text("[project]\nname = 'skyrl-gym'\n")
    (root / "empty").mkdir()
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "x.pyc").write_bytes(b"no")
    (root / ".git").mkdir()
    (root / ".git" / "HEAD").write_text("no")
    if old_layout:
        (project / "skyrl-gym").symlink_to("../skyrl-gym/")
    else:
        (root / "skyrl-train").mkdir()
        (root / "skyrl-train" / "README.md").write_text("moved\n")
    return open_checkout(root)


def make_backend(name: str, modal_client: modal.Client) -> ModalBackend:
    """The backend of this name; the local one on the suite's own server."""
    if name == "local":
        return ModalBackend(name, modal_client, {"SKYRL_RAY_START_LOCK": MACHINE_LOCK, "SKYRL_COMMIT_MAILBOX": MAILBOX})
    return ModalBackend(name, account_client())


def make_volume(backend: ModalBackend, version: int) -> str:
    """The name of the suite's volume of this version, which is there then."""
    name = f"skyrl-magic-contract-v{version}"
    modal.Volume.objects.create(name, version=version, allow_existing=True, client=backend.client)
    return name


def make_spec(
    backend: str,
    checkout: Checkout | None,
    volume: str = "skyrl-magic-contract",
    *,
    gpu: str = "none",
    ray: bool = False,
) -> SessionSpec:
    """A spec of the suite's app."""
    return SessionSpec(
        backend=backend,
        gpu=parse_gpu(gpu),
        image="novaskyai/skyrl-train-ray-2.57.0-py3.12-cu13.0",
        volume=volume,
        app="skyrl-magic-contract",
        ray=ray,
        repo=str(checkout.root) if checkout else "",
    )


def skip_costly(backend: str, gpu: str) -> None:
    """Skip a test on Modal with a GPU, unless ``make live`` was told to have one."""
    if backend == "modal" and gpu not in ("none", os.environ.get("SKYRL_MAGIC_LIVE_GPU", "none")):
        pytest.skip(f"make live ARGS='--gpu {gpu}' runs it")


@pytest.fixture(scope="session")
def agent_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent's zipapp."""
    return build_agent(tmp_path_factory.mktemp("agent") / "agent.pyz")


@pytest.fixture(scope="module", params=BACKENDS)
def service(request: pytest.FixtureRequest, modal_client: modal.Client, agent_path: Path) -> Iterator[SessionService]:
    """The session service over one backend."""
    backend = make_backend(request.param, modal_client)
    service = SessionService(lambda _: backend, lambda: agent_path)
    service.backend_name = request.param  # type: ignore[attr-defined]
    service.real_backend = backend  # type: ignore[attr-defined]
    yield service
    service.close()


#: A GPU asked for (V1 calls) or not (V2), and the volume's version. One has nothing to do with the other, and each
#: more pair would cost the suite a minute; ``test_sessions`` has both versions through the calls of each family.
GPU_AND_VOLUME = [pytest.param(("L4", 1), id="L4-v1"), pytest.param(("none", 2), id="none-v2")]


@pytest.fixture(scope="module", params=GPU_AND_VOLUME)
def lab(
    request: pytest.FixtureRequest, service: SessionService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """A warm session without Ray."""
    gpu, version = request.param
    backend: ModalBackend = service.real_backend  # type: ignore[attr-defined]
    skip_costly(backend.name, gpu)
    checkout = make_checkout(tmp_path_factory.mktemp("checkout") / "SkyRL", old_layout=gpu == "L4")
    wanted = SessionRequest(make_spec(backend.name, checkout, make_volume(backend, version), gpu=gpu), checkout, 600)
    progress = Recorder()
    session, created = service.ensure(wanted, progress)
    assert created
    yield Lab(service, RunService(), wanted, session, progress.phases)
    service.stop(wanted.spec.backend, wanted.spec.app, session.name)
