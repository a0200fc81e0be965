from __future__ import annotations

import os

import pytest

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import SessionError, SessionLost
from skyrl_magic.service.session import Session
from tests.unit.service.conftest import Recorder, World, sandbox_of


def test_a_cell_runs_and_its_end_is_told(world: World, session: Session) -> None:
    result, sink = world.run(session, "echo out; echo err >&2; exit 3")
    assert (sink.text(), sink.text(protocol.STDERR)) == ("out\n", "err\n")
    assert (result.exit_code, result.stopped, result.captured) == (3, "", {})


def test_status_and_idle_timeout(session: Session) -> None:
    session.set_limits(idle_timeout_s=42.0)
    status = session.ask_status()
    assert (status.ray, status.idle_timeout_s, status.active_runs) == ("off", 42.0, [])


def test_the_idle_timeout_is_set_over_the_next_connection_where_one_breaks(session: Session) -> None:
    sandbox_of(session).streams[-1].process.kill()
    session.set_limits(idle_timeout_s=43.0)
    assert session.ask_status().idle_timeout_s == 43.0


def test_a_container_that_ends_at_once_says_why(world: World) -> None:
    session = world.start()
    sandbox = sandbox_of(session)
    sandbox.process.terminate()
    sandbox.process.wait(60)
    late = Session("late", session.spec, sandbox, None)
    says = "session late did not come up: the container has ended: the backend ended its container"
    with pytest.raises(SessionLost, match=says):
        late.open()


def test_without_ray_nothing_is_waited_for(session: Session) -> None:
    progress = Recorder()
    assert session.wait_for_ray(progress).ray == "off"
    assert progress.phases == []


@pytest.mark.parametrize(("script", "state"), [("exit 0", "ready"), ("echo no room >&2; exit 3", "failed")])
def test_rays_start_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch, script: str, state: str) -> None:
    folder = world.folder / "bin"
    folder.mkdir()
    go = world.folder / "go"
    (folder / "ray").write_text(f"#!/bin/bash\nuntil [ -e {go} ]; do sleep 0.01; done\n{script}\n")
    (folder / "ray").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    session = world.start(world.request(ray=True))
    assert session.status.ray == "starting"
    progress = Recorder()
    progress.tick = go.touch  # type: ignore[method-assign]  # the first wait is over
    status = session.wait_for_ray(progress)
    assert (status.ray, progress.phases) == (state, ["Ray"])
    assert ("no room" in status.ray_detail) == (state == "failed")


def test_ray_that_does_not_start_again_is_one_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = world.folder / "bin"
    folder.mkdir()
    (folder / "ray").write_text(f"#!/bin/bash\n[ -e {folder}/works ] || {{ echo no room >&2; exit 3; }}\n")
    (folder / "ray").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    session = world.start(world.request(ray=True))
    status = session.wait_for_ray(Recorder())
    text = "Ray did not start: no room; %skyrl_restart --ray tries again; cells that need no Ray go on"
    assert status.ray_problem == text
    assert session.take_notices() == [text]
    with pytest.raises(SessionError, match="Ray did not start: no room"):
        session.restart_ray(Recorder())
    assert session.take_notices() == []  # it is the error
    (folder / "works").touch()
    status = session.restart_ray(Recorder())
    assert (status.ray, status.ray_problem) == ("ready", "")


def test_a_container_that_ends_while_ray_starts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = world.folder / "bin"
    folder.mkdir()
    (folder / "ray").write_text("#!/bin/bash\nexec sleep 300\n")
    (folder / "ray").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    session = world.start(world.request(ray=True))
    progress = Recorder()
    progress.tick = sandbox_of(session).terminate  # type: ignore[method-assign]
    with pytest.raises(SessionLost, match="the container has ended"):
        session.wait_for_ray(progress)
