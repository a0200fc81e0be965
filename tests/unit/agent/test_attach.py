"""The channel itself: who may speak on it, and when it ends."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

from skyrl_magic.core import protocol
from tests.unit.agent.harness import DEADLINE_S, Attached, Session


def test_pings_are_answered(channel: Attached) -> None:
    channel.send(protocol.Ping(1), protocol.Ping(2))
    assert channel.wait_for(protocol.Pong, lambda pong: pong.number == 2)


def test_unknown_kinds_are_ignored(channel: Attached) -> None:
    frame = struct.pack(">IBI", 7, 200, 2) + b"{}"
    channel.send_bytes(frame)
    channel.send(protocol.Ping(3))
    assert channel.wait_for(protocol.Pong).number == 3


def test_garbage_ends_the_channel_with_an_error_and_not_the_run(session: Session) -> None:
    bad, good = session.attach(), session.attach()
    good.start("sleep 0.5; echo on")
    bad.send_bytes(b"GET / HTTP/1.1\r\n\r\n")
    assert bad.process.wait(DEADLINE_S) == 65
    assert bad.process.stderr is not None
    assert b"not our channel" in bad.process.stderr.read()
    good.send(protocol.WatchRun("run-1"))
    assert good.ended().exit_code == 0
    assert good.text() == b"on\n"


def test_the_end_of_stdin_ends_the_channel(channel: Attached) -> None:
    assert channel.process.stdin is not None
    channel.process.stdin.close()
    assert channel.process.wait(DEADLINE_S) == 0


def test_a_silent_client_is_left(session: Session) -> None:
    channel = session.attach("--ping-timeout", "0.5")
    other = session.attach()
    assert channel.process.wait(DEADLINE_S) == 0
    status = other.ask(protocol.GetStatus(), protocol.Status)
    assert isinstance(status, protocol.Status)
    assert status.clients == 1


def _answers(number: int, failed: protocol.Failed) -> bool:
    return failed.request == number


def test_fields_of_a_wrong_type_are_refused_and_harm_nothing(channel: Attached) -> None:
    def frame(kind: int, **meta: object) -> bytes:
        inner = json.dumps(meta).encode()
        return struct.pack(">IBI", 5 + len(inner), kind, len(inner)) + inner

    channel.send_bytes(frame(3, request=7, run_id=["a"]))  # StartRun
    channel.send_bytes(frame(7, request=8, run_id="x", stream={}))  # ReadJournal
    channel.send_bytes(frame(12, request=9, idle_timeout_s="soon"))  # Configure
    channel.send_bytes(frame(3, request=10, run_id="run-0", env={"A": 5}))
    channel.send_bytes(frame(3, request=12, run_id="run-0", env={"A": "\0"}))
    channel.send_bytes(frame(11, request=11))  # ApplyCheckout without a change
    channel.send_bytes(frame(4, run_id={}))  # WatchRun
    for number in (7, 8, 9, 10, 11, 12):
        assert channel.wait_for(protocol.Failed, partial(_answers, number)).code == "bad_request"
    assert channel.run("true").exit_code == 0


def test_without_a_session_attach_says_so(agent: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-IS", str(agent), "attach", "--state-dir", str(tmp_path), "--boot-timeout", "0.1"]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 69
    assert b"no session answers" in done.stderr
    assert done.stdout == b""


def test_agent_and_channel_are_small(session: Session, channel: Attached) -> None:
    channel.start("head -c 20000000 /dev/urandom")
    channel.send(protocol.WatchRun("run-1", stdout=protocol.ALL))
    channel.ended()
    for pid in (session.process.pid, session.pid, channel.process.pid):
        status = Path(f"/proc/{pid}/status").read_text()
        peak_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        assert peak_kb < 40_000
