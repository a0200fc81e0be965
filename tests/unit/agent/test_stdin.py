"""What a shell run reads: the client's file, which becomes the run's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from skyrl_magic.core import protocol
from tests.unit.agent.harness import Attached, Gate, Session
from tests.unit.agent.test_supervisor import program

MakeSession = Callable[..., Session]


def put(channel: Attached, data: bytes) -> str:
    channel.send(protocol.PutBlob(0, "v1", 0, last=False, payload=data))
    assert isinstance(channel.ask(protocol.PutBlob(0, "v1", len(data)), protocol.Done), protocol.Done)
    return "v1"


def test_a_run_reads_what_its_client_has_put(session: Session, channel: Attached) -> None:
    name = put(channel, b"a\0b")
    channel.start("cat", stdin=name)
    channel.send(protocol.DropBlob(name), protocol.WatchRun("run-1"))
    assert channel.ended().exit_code == 0
    assert channel.text() == b"a\0b"
    assert not (session.config.state / "runs" / "run-1" / "stdin").exists()
    assert not (session.config.state / "blobs" / name).exists()


def test_a_run_that_waits_for_ray_keeps_it(make_session: MakeSession, tmp_path: Path, gate: Gate) -> None:
    env = program(tmp_path / "bin", "ray", f"read _ <{gate}; setsid -f sleep 600 >/dev/null 2>&1 </dev/null")
    session = make_session(ray=True, env=env)
    channel, other = session.attach(), session.attach()
    channel.start("cat", stdin=put(channel, b"kept"))
    other.send(protocol.WatchRun("run-1"))
    assert other.wait_for(protocol.RunWaiting).reason == "ray"
    channel.close()
    gate.say()
    assert other.ended().exit_code == 0
    assert other.text() == b"kept"


@pytest.mark.parametrize("name", ["v2", "../supervisor.sock", "../session.json"])
def test_another_file_is_refused(channel: Attached, name: str) -> None:
    refused = channel.ask(protocol.StartRun(0, "run-1", stdin=name, payload=b"cat"), protocol.Failed)
    assert isinstance(refused, protocol.Failed)
    assert channel.run("echo on", "run-2").exit_code == 0


def test_a_script_is_run_by_what_its_first_line_names(channel: Attached) -> None:
    assert channel.run(b"#!/bin/cat\n\xff\n").exit_code == 0
    assert channel.text() == b"#!/bin/cat\n\xff\n"
    assert channel.run("#!/no/such", "run-2").exit_code == 127
    assert b"there is no /no/such" in channel.text(protocol.STDERR, "run-2")
