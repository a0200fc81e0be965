"""Files for and from the Python kernel: one client's own, in one folder, gone with it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from skyrl_magic.core import protocol
from tests.unit.agent.harness import Attached, Session, content, until


def folder(session: Session) -> Path:
    return session.config.state / "blobs"


def put(channel: Attached, data: bytes, name: str = "v1", part_bytes: int = 1000) -> protocol.Message:
    for at in range(0, len(data), part_bytes):
        channel.send(protocol.PutBlob(0, name, at, last=False, payload=data[at : at + part_bytes]))
    return channel.ask(protocol.PutBlob(0, name, len(data)), protocol.Done, protocol.Failed)


def read(channel: Attached, name: str = "v1") -> bytes:
    first = channel.ask(protocol.ReadBlob(0, name), protocol.JournalData, protocol.Failed)
    assert isinstance(first, protocol.JournalData), first
    channel.wait_for(protocol.JournalData, lambda frame: frame.request == first.request and frame.last)
    parts = [f for f in channel.frames if isinstance(f, protocol.JournalData) and f.request == first.request]
    assert not any(part.compressed for part in parts)
    return b"".join(map(content, parts))


@pytest.mark.parametrize("size_bytes", [0, 1, 999, 1000, 3_000_001])
def test_a_file_is_put_and_read(session: Session, channel: Attached, size_bytes: int) -> None:
    data = os.urandom(size_bytes)
    assert isinstance(put(channel, data, part_bytes=100_000), protocol.Done)
    path = folder(session) / "v1"
    assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert read(channel) == data


def test_what_the_kernel_has_written_is_read(session: Session, channel: Attached) -> None:
    put(channel, b"")
    (folder(session) / "v1").write_bytes(b"filled")
    assert read(channel) == b"filled"


def test_a_dropped_file_is_gone_and_its_name_free(session: Session, channel: Attached) -> None:
    put(channel, b"one")
    channel.send(protocol.DropBlob("v1"), protocol.DropBlob("v1"), protocol.DropBlob("never"))
    assert isinstance(put(channel, b"other"), protocol.Done)
    assert (folder(session) / "v1").read_bytes() == b"other"


def test_files_go_with_their_client(session: Session, channel: Attached) -> None:
    put(channel, b"one")
    channel.send(protocol.PutBlob(0, "half", 0, last=False, payload=b"x"), protocol.Ping(7))
    channel.wait_for(protocol.Pong)
    assert {path.name for path in folder(session).iterdir()} == {"v1", "half"}
    channel.close()
    until(lambda: not list(folder(session).iterdir()))


def test_what_a_killed_client_left_goes_with_the_next_file(session: Session, channel: Attached) -> None:
    dead, alive = session.attach(), session.attach()
    put(dead, b"one", "dead")
    put(alive, b"two", "alive")
    dead.kill()
    put(channel, b"three", "new")
    assert {path.name for path in folder(session).iterdir()} == {"alive", "new"}
    assert read(alive, "alive") == b"two"


@pytest.mark.parametrize("name", ["", ".", "..", "../new", "a/b", "FOLDER/new", ".hidden", "x" * 65, "a\nb", "a\0"])
def test_no_name_leads_out_of_the_folder(session: Session, channel: Attached, name: str) -> None:
    name = name.replace("FOLDER", str(session.folder))
    text = b"where did this go?"
    for request in (protocol.PutBlob(0, name, 0, payload=text), protocol.ReadBlob(0, name)):
        answer = channel.ask(request, protocol.Failed, protocol.Done, protocol.JournalData)
        assert isinstance(answer, protocol.Failed)
        assert answer.code == "bad_request"
    assert not [p for p in session.folder.rglob("*") if p.is_file() and text in p.read_bytes()]
    assert not folder(session).exists()


def test_other_clients_and_other_files_are_out_of_reach(session: Session, channel: Attached) -> None:
    put(channel, b"mine")
    other = session.attach()
    link = folder(session) / "link"
    link.symlink_to("/etc/passwd")
    for name in ("v1", "link"):
        assert isinstance(other.ask(protocol.ReadBlob(0, name), protocol.Failed, protocol.JournalData), protocol.Failed)
        assert isinstance(put(other, b"theirs", name), protocol.Failed)
    other.send(protocol.DropBlob("v1"), protocol.Ping(9))
    other.wait_for(protocol.Pong)
    assert read(channel) == b"mine"


def test_what_went_wrong_with_a_part_is_said_at_the_last(channel: Attached) -> None:
    channel.send(protocol.PutBlob(0, "v1", 5, last=False, payload=b"x"))
    failed = channel.ask(protocol.PutBlob(0, "v1", 6), protocol.Failed, protocol.Done)
    assert isinstance(failed, protocol.Failed)
    assert "at 5 does not follow" in failed.message
    assert isinstance(put(channel, b"anew"), protocol.Done)


def test_a_full_disk_is_an_answer(session: Session, channel: Attached) -> None:
    folder(session).touch()  # no folder can be made there
    failed = put(channel, b"data")
    assert isinstance(failed, protocol.Failed)
    assert failed.code == "io_error"
    folder(session).unlink()
    assert channel.run("true").exit_code == 0
