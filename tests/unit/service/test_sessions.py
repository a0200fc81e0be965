from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skyrl_magic.core import contract, protocol
from skyrl_magic.core.cancel import Cancel
from skyrl_magic.core.errors import (
    AlreadyExists,
    BackendError,
    BackendUnavailable,
    CheckoutError,
    NotFound,
    RunStopped,
    SessionConflict,
    SessionError,
    SessionLost,
)
from skyrl_magic.core.ports import ByteStream, MountedVolume, SandboxRequest
from skyrl_magic.service import attempt, session_info
from skyrl_magic.service.checkout import Checkout
from skyrl_magic.service.connection import Timing
from skyrl_magic.service.creation import new_volume_text
from skyrl_magic.service.logs import all_runs
from skyrl_magic.service.owners import asker, owner, user_at_host
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.service.sessions import SessionService
from skyrl_magic.service.watch import Lost
from tests.unit.service.conftest import Recorder, World, sandbox_of
from tests.unit.service.processes import DEADLINE_S, ProcessSandbox


@pytest.fixture
def other(world: World, agent: Path) -> SessionService:
    """Another notebook's service; its channels end with the sandboxes."""
    return SessionService(lambda _: world.backend, lambda: agent)


def named(request: SessionRequest, name: str, *, asked: frozenset[str] | None = None) -> SessionRequest:
    return dataclasses.replace(request, name=name, asked=asked)


def foreign(world: World, tags: dict[str, str]) -> None:
    """A sandbox of the name ``taken`` that this user did not start."""
    request = world.request()
    made = sandbox_of(world.start(named(request, "taken")))
    made.request = dataclasses.replace(made.request, tags={**made.request.tags, **tags})


# --- found and started ------------------------------------------------------------------------------------------------


def test_phases_are_told_and_the_second_time_there_are_none(world: World) -> None:
    progress = Recorder()
    session, created = world.service.ensure(world.request(), progress)
    assert (created, progress.phases) == (True, ["image", "checkout", "container"])
    again, created = world.service.ensure(world.request(), progress)
    assert (again is session, created, len(progress.phases)) == (True, False, 3)
    assert world.service.open_names() == [session.name]
    assert session.name == world.request().spec.default_name(owner("local").id)


def test_the_checkout_is_mounted_and_its_rest_comes_with_the_first_run(world: World, checkout: Checkout) -> None:
    (checkout.root / "two\nlines").write_text("x")
    session = world.start(world.request(checkout))
    assert (sandbox_of(session).checkout / "skyrl-gym" / "gym.py").read_text() == "gym\n"
    _, sink = world.run(session, f"pwd; cat {sandbox_of(session).checkout}/two*")
    assert sink.text() == f"{sandbox_of(session).checkout}\nx"


def test_another_notebook_joins(world: World, other: SessionService) -> None:
    session = world.start()
    joined, created = other.ensure(world.request(), Recorder())
    assert (created, joined.sandbox.id) == (False, session.sandbox.id)
    assert world.run(joined, "echo joined")[1].text() == "joined\n"


def test_a_name_with_another_spec_is_a_conflict(world: World, other: SessionService) -> None:
    request = named(world.request(), "mine")
    world.start(request)
    changed = dataclasses.replace(request, spec=dataclasses.replace(request.spec, volume="v2", cpu=4.0))
    says = r"runs with --cpu default \(asked: 4.0\), --volume data \(asked: v2\): "
    for service in (world.service, other):
        with pytest.raises(SessionConflict, match=says):
            service.ensure(changed, Recorder())
        joined, created = service.ensure(dataclasses.replace(changed, asked=frozenset()), Recorder())
        assert (joined.spec, created) == (request.spec, False)


def test_a_session_that_has_ended_unnoticed_is_no_conflict(world: World) -> None:
    request = named(world.request(), "mine")
    first = world.start(request)
    sandbox, polled = sandbox_of(first), list[int | None]()

    def poll() -> int | None:
        polled.append(ProcessSandbox.poll(sandbox))
        return polled[-1]

    sandbox.poll = poll  # type: ignore[method-assign]
    assert world.start(request) is first
    assert polled == []  # a warm cell asks the server nothing
    changed = dataclasses.replace(request, spec=dataclasses.replace(request.spec, volume="v2"))
    with pytest.raises(SessionConflict):
        world.start(changed)
    assert polled == [None]

    heard = threading.Event()

    def hang(_: list[str]) -> ByteStream:
        heard.wait(DEADLINE_S)
        raise SessionLost("the container has ended")

    sandbox.exec = hang  # type: ignore[method-assign,assignment]
    sandbox.terminate()
    assert first.channel.alive
    second, created = world.service.ensure(changed, Recorder())
    assert (created, second.spec.volume, first.channel.alive) == (True, "v2", False)
    assert world.run(second, "echo x")[1].text() == "x\n"
    heard.set()


def test_another_owners_session_is_left_alone(world: World, other: SessionService) -> None:
    foreign(world, {"owner": "bob (us-2)"})
    for action in (
        lambda: other.ensure(named(world.request(), "taken", asked=frozenset()), Recorder()),
        lambda: other.stop("local", "app", "taken"),
    ):
        with pytest.raises(SessionConflict, match="taken belongs to bob: "):
            action()
    assert (other.list("local"), other.running("local")) == ([], [])
    assert world.backend.made[0].poll() is None


@pytest.mark.parametrize("tags", [{"spec": '{"gpu": "toaster"}'}, {"spec": "what"}, {"spec": "7"}, {"session": ""}])
def test_a_sandbox_of_something_else_is_left_alone(world: World, other: SessionService, tags: dict[str, str]) -> None:
    foreign(world, tags)
    with pytest.raises(SessionConflict, match="taken is a sandbox of something else"):
        other.ensure(named(world.request(), "taken"), Recorder())


def as_of_an_earlier_version(world: World) -> None:
    """The sandbox's tags as they were before there was one for the spec, and owners that last."""
    made = world.backend.made[0]
    tags = {**made.request.tags, **made.request.spec.texts(), "timeout_s": "3600", "owner": user_at_host()}
    del tags["spec"]
    made.request = dataclasses.replace(made.request, tags=tags)


def test_a_session_of_an_earlier_version_is_found(world: World, other: SessionService) -> None:
    request = named(world.request(memory_mib=512), "old")
    session = world.start(request)
    as_of_an_earlier_version(world)
    assert [(row.name, row.gpu) for row in other.list("local")] == [("old", "none")]
    joined, created = other.ensure(request, Recorder())
    assert (joined.sandbox.id, joined.spec, created) == (session.sandbox.id, session.spec, False)
    other.stop("local", "app", "old")
    assert session.sandbox.poll() is not None


# --- a spec that is too long for a tag --------------------------------------------------------------------------------


def long_request(world: World) -> SessionRequest:
    return named(world.request(secrets=tuple(f"secret-{number:03}" for number in range(40))), "long")


def test_a_long_spec_is_a_hash_that_its_user_knows(world: World, other: SessionService) -> None:
    session = world.start(long_request(world))
    tags = session.sandbox.tags()
    assert tags["spec"].startswith("sha256:")
    assert len(tags) == 5
    joined, created = other.ensure(long_request(world), Recorder())
    assert (joined.sandbox.id, joined.spec, created) == (session.sandbox.id, session.spec, False)
    assert len(sandbox_of(session).streams) == 2  # each service its own channel, and nothing was asked for the spec


def test_a_long_spec_is_told_by_the_session(world: World, other: SessionService) -> None:
    session = world.start(long_request(world))
    (row,) = other.list("local")
    assert (row.name, row.gpu, row.timeout_s) == ("long", "none", 3600)
    wanted = dataclasses.replace(named(world.request(), "long"), asked=frozenset())
    joined = other.join(wanted)
    assert joined is not None
    assert (joined.spec, joined.spec_is_known) == (session.spec, True)
    other.leave(joined)
    changed = dataclasses.replace(
        wanted, spec=dataclasses.replace(wanted.spec, volume="v2"), asked=frozenset({"volume"})
    )
    with pytest.raises(SessionConflict, match=r"session long runs with --volume data \(asked: v2\)"):
        other.ensure(changed, Recorder())


def test_a_long_spec_of_a_silent_session(world: World, other: SessionService, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = Timing(attach_timeout_s=0.2, reopen_pauses_s=())
    monkeypatch.setattr(session_info, "QUICK", impatient)
    session = world.start(long_request(world))
    supervisor = sandbox_of(session).supervisor
    supervisor.suspend()
    assert [(row.name, row.gpu, row.state) for row in other.list("local")] == [("long", "?", "not answering")]
    supervisor.resume()


def test_a_name_is_free_when_its_session_has_ended(world: World) -> None:
    request = named(world.request(), "again")
    first = world.start(request)
    watch = first.channel.add_watch(protocol.WatchRun("none"))
    sandbox_of(first).terminate()
    assert isinstance(watch.events.get(timeout=DEADLINE_S), Lost)
    assert world.service.why_lost(request) == "it was killed (SIGKILL)"
    second, created = world.service.ensure(request, Recorder())
    assert (created, second.sandbox.id != first.sandbox.id) == (True, True)
    assert world.service.why_lost(request) == ""
    assert world.run(second, "echo x")[1].text() == "x\n"


def test_a_new_volume_is_said_once(world: World, other: SessionService) -> None:
    first, second, third = Recorder(), Recorder(), Recorder()
    world.service.ensure(named(world.request(volume="skyrl-dta"), "one"), first)
    other.ensure(named(world.request(volume="skyrl-dta"), "one"), second)
    other.ensure(named(world.request(volume="skyrl-dta"), "two"), third)
    assert (first.notes, second.notes, third.notes) == (["volume skyrl-dta is new"], [], [])


def test_a_session_is_found_under_another_hostname(
    world: World, other: SessionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = world.start()
    monkeypatch.setattr(socket, "gethostname", lambda: "another-container")
    joined, created = other.ensure(world.request(), Recorder())
    assert (joined.sandbox.id, joined.name, created) == (session.sandbox.id, session.name, False)
    assert [row.name for row in other.list("local")] == [session.name]


def test_an_owner_that_cannot_be_kept_is_said_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    world.backend.whose = None
    first, second = Recorder(), Recorder()
    world.service.ensure(world.request(), first)
    world.service.ensure(named(world.request(), "two"), second)
    assert [note.split(" (")[0] for note in first.notes if "owns" in note] == [
        f"who owns your sessions cannot be kept in {tmp_path}/home/.config/skyrl_magic"
    ]
    assert second.notes == []
    assert "two" in {row.name for row in world.service.list("local")}


def test_of_a_new_volume_the_nearest_name_is_said() -> None:
    assert new_volume_text("skyrl-dta", "skyrl-data") == (
        "volume skyrl-dta is new: did you mean skyrl-data? (--volume skyrl-data)"
    )


@pytest.mark.parametrize("version", [1, 2])
def test_the_version_of_the_volume_is_known_to_all(world: World, other: SessionService, version: int) -> None:
    world.backend.volume_version = version
    assert world.start().status.volume_version == version
    assert other.ensure(world.request(), Recorder())[0].status.volume_version == version


def test_who_loses_the_name_joins_the_winner(world: World, other: SessionService) -> None:
    request = named(world.request(), "race")

    def win(phase: str) -> None:
        if phase == "container":
            world.backend.before = lambda _: None
            other.ensure(request, Recorder())

    world.backend.before = win
    session, created = world.service.ensure(request, Recorder())
    assert (created, len(world.backend.made)) == (False, 1)
    assert world.run(session, "echo x")[1].text() == "x\n"


def test_two_threads_get_one_session(world: World) -> None:
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: world.service.ensure(world.request(), Recorder()), range(2)))
    assert sorted(created for _, created in answers) == [False, True]
    assert answers[0][0] is answers[1][0]


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [NotFound("no secret x"), BackendUnavailable("no network"), BackendError("no")])
def test_what_the_backend_says_is_told(world: World, error: BackendError) -> None:
    def refuse(_: str) -> None:
        raise error

    world.backend.before = refuse
    with pytest.raises(type(error), match=str(error)):
        world.start()
    world.backend.before = lambda _: None
    assert world.run(world.start(), "echo later")[1].text() == "later\n"


def test_a_name_that_is_taken_and_free_by_turns(world: World) -> None:
    def taken(_: str) -> None:
        raise AlreadyExists("taken")

    world.backend.before = taken
    with pytest.raises(SessionError, match="started and stopped all the time elsewhere"):
        world.start()


def test_an_upload_that_fails_because_of_a_change_is_tried_without_it(world: World, checkout: Checkout) -> None:
    tries = 0

    def change(phase: str) -> None:
        nonlocal tries
        if phase == "container" and tries < 1:
            tries += 1
            (checkout.root / "pyproject.toml").write_text("changed\n")
            raise BackendError("a file changed while it was uploaded")

    world.backend.before = change
    session = world.start(world.request(checkout))
    assert not (sandbox_of(session).checkout / "pyproject.toml").exists()
    world.run(session, "true")
    assert (sandbox_of(session).checkout / "pyproject.toml").read_text() == "changed\n"


def test_an_upload_that_fails_for_ever(world: World, checkout: Checkout) -> None:
    count = 0

    def change(phase: str) -> None:
        nonlocal count
        if phase == "container":
            count += 1
            (checkout.root / f"file{count - 1}").write_text("changed\n")
            (checkout.root / f"file{count}").write_text("new\n")
            raise BackendError("a file changed while it was uploaded")

    (checkout.root / "file0").touch()
    world.backend.before = change
    with pytest.raises(CheckoutError, match=r"change all the time: list them in \.skyrlignore"):
        world.start(world.request(checkout))


def test_a_container_whose_agent_dies_at_once_is_not_left(world: World) -> None:
    request = world.request()
    made = world.backend.create

    def broken(wanted: SandboxRequest, on_phase: Callable[[str], None], cancel: Cancel) -> ProcessSandbox:
        command = ["python3", "-c", "raise SystemExit('no disk')", "{}"]
        return made(dataclasses.replace(wanted, command=lambda _: command), on_phase, cancel)

    world.backend.create = broken  # type: ignore[method-assign,assignment]
    with pytest.raises(SessionLost, match="did not come up: the container has ended: exit code 1: no disk"):
        world.start(request)
    assert world.backend.made[0].poll() is not None
    assert world.service.open_names() == []


class StoppedAt(Recorder):
    """The progress of a cell whose user presses Stop when a phase begins."""

    def __init__(self, phase: str) -> None:
        super().__init__()
        self._phase = phase

    def begin(self, phase: str, hint: str = "") -> None:
        super().begin(phase, hint)
        if phase == self._phase:
            raise KeyboardInterrupt


@pytest.mark.parametrize("phase", ["image", "checkout", "container"])
def test_an_interrupted_start_is_cancelled(world: World, phase: str) -> None:
    pressed = threading.Event()
    world.backend.before = lambda begun: pressed.wait(DEADLINE_S) if begun == "container" else None

    class Stopped(StoppedAt):
        def begin(self, phase: str, hint: str = "") -> None:
            try:
                super().begin(phase, hint)
            except KeyboardInterrupt:
                threading.Timer(0.05, pressed.set).start()
                raise

    with pytest.raises(RunStopped, match="was starting; its creation is cancelled"):
        world.service.ensure(world.request(), Stopped(phase))
    world.service._pool.shutdown(wait=True)
    assert world.backend.made == []


def test_a_container_that_comes_after_stop_is_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "CONFIRM_S", 0.05)
    made = threading.Event()
    world.backend.before = lambda phase: made.wait(DEADLINE_S) if phase == "container" else None
    world.backend.heeds = False
    with pytest.raises(RunStopped, match="its container is being ended"):
        world.service.ensure(world.request(), StoppedAt("container"))
    made.set()
    world.service._pool.shutdown(wait=True)
    assert [sandbox.poll() for sandbox in world.backend.made] == [-signal.SIGKILL]


# --- list and stop ----------------------------------------------------------------------------------------------------


def test_the_table_has_the_owners_sessions(world: World, other: SessionService) -> None:
    for name in ("one", "two"):
        world.start(named(world.request(), name))
    world.start(named(world.request(app="elsewhere"), "three"))
    rows = {row.name: row for row in world.service.list("local")}
    assert {name: row.app for name, row in rows.items()} == {"one": "app", "two": "app", "three": "elsewhere"}
    assert (rows["one"].gpu, rows["one"].timeout_s, rows["one"].repo) == ("none", 3600, "")
    assert rows["one"].state.startswith("idle ")
    assert 0 <= rows["one"].age_s < 600
    assert all(row.state.startswith("idle ") for row in other.list("local"))
    assert other.open_names() == []


def test_the_table_counts_runs(world: World) -> None:
    states: list[str] = []
    session = world.start()

    def look(_: object) -> None:
        states.append(world.service.list("local")[0].state)
        (world.folder / "go").touch()

    world.run(session, f"echo x; until [ -e {world.folder}/go ]; do sleep 0.01; done", Recorder(look))
    assert states == ["1 run"]


def test_the_table_says_who_does_not_answer(
    world: World, other: SessionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_info, "QUICK", Timing(attach_timeout_s=0.2, reopen_pauses_s=()))
    session = world.start()
    sandbox_of(session).supervisor.suspend()
    assert [row.state for row in other.list("local")] == ["not answering"]
    sandbox_of(session).supervisor.resume()


def test_join_takes_what_runs_and_starts_nothing(world: World, other: SessionService, checkout: Checkout) -> None:
    request = world.request(checkout)
    assert other.join(request) is None
    session = world.start(request)
    joined = other.join(dataclasses.replace(request, checkout=None))
    assert joined is not None
    assert (joined.sandbox.id, joined.sync, other.open_names()) == (session.sandbox.id, None, [session.name])
    again, created = other.ensure(request, Recorder())
    assert (again is joined, created, len(world.backend.made)) == (True, False, 1)
    assert joined.sync is not None  # its first user had no checkout
    other.leave(joined)
    assert (other.open_names(), joined.channel.alive) == ([], False)


def test_a_session_that_ends_while_it_is_joined_is_none(world: World, other: SessionService) -> None:
    sandbox = sandbox_of(world.start())

    def end(_: list[str]) -> ByteStream:
        sandbox.terminate()
        raise SessionLost("the container has ended")

    sandbox.exec = end  # type: ignore[method-assign,assignment]
    assert other.join(world.request()) is None


def test_a_session_that_ends_while_it_is_listed_is_left_out(world: World) -> None:
    world.start(named(world.request(), "one"))
    gone = sandbox_of(world.start(named(world.request(), "two")))

    def tags() -> dict[str, str]:
        raise NotFound("no such sandbox")

    gone.tags = tags  # type: ignore[method-assign]
    assert [row.name for row in world.service.list("local")] == ["one"]


def test_stop_ends_runs_and_container(world: World) -> None:
    session = world.start()
    marker = world.folder / "ended"

    def stop(_: object) -> None:
        if world.service.get("local", "app", session.name) is not None:
            world.service.stop("local", "app", session.name)

    cell = f"trap 'touch {marker}; exit' TERM; echo x; while :; do sleep 0.01; done"
    result, _ = world.run(session, cell, Recorder(stop))
    assert result.reason == f"%skyrl_stop by {asker('local')} ended it"
    assert marker.exists()
    assert session.sandbox.poll() is not None
    assert world.service.get("local", "app", session.name) is None
    with pytest.raises(NotFound, match="there is no session"):
        world.service.stop("local", "app", session.name)


class Opener(Recorder):
    """Lets commits happen when somebody is seen to wait for one."""

    def __init__(self, gate: Path) -> None:
        super().__init__()
        self.gate = os.open(gate, os.O_RDWR)

    def begin(self, phase: str, hint: str = "") -> None:
        super().begin(phase, hint)
        if phase.startswith("waiting"):
            os.write(self.gate, b"\n" * 9)


def test_a_new_session_sees_what_another_has_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # The copy is what a container that starts now would see on the volume.
    committed, gate, sync = (world.folder / name for name in ("committed", "gate", "sync"))
    committed.mkdir()
    os.mkfifo(gate)
    sync.write_text(f'#!/bin/bash\nread _ <{gate}; cp -r "$1"/. {committed}\n')
    sync.chmod(0o755)
    monkeypatch.setenv("PATH", f"{world.folder}:{os.environ['PATH']}")
    progress, seen = Opener(gate), []
    first = world.start()
    world.run(first, f"echo data >{sandbox_of(first).volume}/file")
    assert not (committed / "file").exists()
    world.backend.before = lambda _: seen.append((committed / "file").exists())
    world.service.ensure(named(world.request(), "second"), progress)
    assert progress.phases[0] == f"waiting for session {first.name} to commit volume data"
    assert seen
    assert all(seen)
    os.close(progress.gate)


def test_a_commit_that_cannot_be_had_is_said(world: World) -> None:
    world.backend.volume_version = 1
    first, progress = world.start(), Recorder()
    world.service.ensure(named(world.request(), "second"), progress)
    (note,) = progress.notes
    assert note.startswith("volume data is version 1, which Modal commits some seconds after a change: what session")
    assert f"session {first.name} has written last" in note


def test_an_agent_of_an_earlier_version_is_not_waited_for(world: World) -> None:
    first, progress = world.start(), Recorder()
    first.status = dataclasses.replace(first.status, timeout_s=0.0)
    world.service.ensure(named(world.request(), "second"), progress)
    (note,) = progress.notes
    assert note.startswith(f"session {first.name}, of an earlier version, commits when its runs end: what session")


def test_an_interpreter_that_starts_no_thread_any_more_says_how_far_runs_were_shown(
    world: World, other: SessionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = world.start()
    start = threading.Thread.start

    def start_no_more(thread: threading.Thread) -> None:
        if thread.name == "skyrl-farewell":
            raise RuntimeError("can't create new thread at interpreter shutdown")
        if thread.name != "skyrl-unwatch":
            start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_no_more)
    world.run(session, "echo up", notebook="mine")
    session.close()
    again, _ = other.ensure(world.request(), Recorder())
    (run,) = all_runs(again)
    assert run.seen == {"mine": [3, 0, 0]}


def test_a_session_is_located_in_whichever_app_it_is(world: World, other: SessionService) -> None:
    places = (("app", "here"), ("elsewhere", "here"), ("elsewhere", "there"), ("third", "twice"), ("x", "twice"))
    for app, name in places:
        other.ensure(named(world.request(app=app), name), Recorder())
    assert world.service.locate("local", "app", "here") == ("local", "app", "here")
    assert world.service.locate("local", "app", "there") == ("local", "elsewhere", "there")
    with pytest.raises(SessionError, match=r"sessions twice run in several apps, third \(local\), x \(local\)"):
        world.service.locate("local", "app", "twice")
    with pytest.raises(NotFound, match="%skyrl_sessions lists them"):
        world.service.locate("local", "app", "nowhere")


def test_the_backends_that_were_used(world: World, agent: Path) -> None:
    service = SessionService(lambda _: world.backend, lambda: agent)
    assert service.backends("modal") == ["modal"]
    service.ensure(world.request(), Recorder())
    assert service.backends("modal") == ["modal", "local"]
    assert service.backends("local") == ["local"]
    service.close()


def test_stop_of_a_session_of_another_notebook(world: World, other: SessionService) -> None:
    session = world.start()
    other.stop("local", "app", session.name)
    assert session.sandbox.poll() is not None


def test_stop_ends_a_container_whose_agent_does_not_answer(world: World) -> None:
    session = world.start()
    sandbox_of(session).streams[-1].process.send_signal(signal.SIGSTOP)
    request = session.channel.request

    def impatient(*args: object, **options: object) -> object:
        return request(*args, **{**options, "timeout_s": 0.05})  # type: ignore[arg-type]

    session.channel.request = impatient  # type: ignore[method-assign,assignment]
    world.service.stop("local", "app", session.name)
    assert session.sandbox.poll() is not None


def test_a_closed_service_leaves_its_sessions(world: World, other: SessionService) -> None:
    session = world.start()
    world.service.close()
    assert not session.channel.alive
    assert session.sandbox.poll() is None
    _, created = other.ensure(world.request(), Recorder())
    assert not created


def test_the_supervisor_is_told_the_contract(world: World) -> None:
    command = sandbox_of(world.start()).request.command(MountedVolume(1))
    assert command[:-2] == [*contract.START_COMMAND, "supervise"]
    assert json.loads(command[-1])["volume_version"] == 1
