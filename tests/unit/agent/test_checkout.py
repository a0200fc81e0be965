"""The checkout: what the container has of it, and how it changes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skyrl_magic.core import protocol
from tests.unit.agent.harness import Attached, Session

Entry = list[Any]


def file_entry(data: bytes, mode: int = 0o644) -> Entry:
    return ["f", mode, hashlib.sha256(data).hexdigest(), len(data)]


def get(channel: Attached, known: int = -1) -> tuple[int, dict[str, Entry] | None]:
    """The generation, and the files unless ``known`` is the current one."""
    state = channel.ask(protocol.GetCheckout(generation=known), protocol.CheckoutState)
    assert isinstance(state, protocol.CheckoutState)
    return state.generation, protocol.unpack_json(state.payload) if state.payload else None


def put(channel: Attached, path: str, data: bytes, mode: int = 0o644, part_bytes: int = 1 << 20) -> None:
    for offset in range(0, max(len(data), 1), part_bytes):
        part = data[offset : offset + part_bytes]
        channel.send(protocol.PutFile(path, mode, offset, offset + len(part) >= len(data), part))


def apply(
    channel: Attached, generation: int, entries: dict[str, Entry], remove: list[str] | None = None
) -> protocol.Message:
    payload = protocol.pack_json({"set": entries, "remove": remove or []})
    request = protocol.ApplyCheckout(0, generation, payload)
    return channel.ask(request, protocol.CheckoutState, protocol.Failed)


def change(channel: Attached, files: dict[str, bytes], remove: list[str] | None = None, **others: Entry) -> None:
    """Put files and make the change; it must be accepted."""
    generation, _ = get(channel)
    for path, data in files.items():
        put(channel, path, data)
    entries = {path: file_entry(data) for path, data in files.items()} | others
    answer = apply(channel, generation, entries, remove)
    assert isinstance(answer, protocol.CheckoutState), answer
    assert answer.generation == generation + 1


def code(answer: protocol.Message) -> str:
    assert isinstance(answer, protocol.Failed), answer
    return answer.code


@pytest.fixture
def mounted(make_session: Callable[..., Session], tmp_path: Path) -> Session:
    """A session whose checkout was mounted with a manifest, not everything of which is true."""
    root = tmp_path / "mounted"
    (root / "pkg").mkdir(parents=True)
    (root / "pkg" / "same.py").write_bytes(b"same")
    (root / "pkg" / "other.py").write_bytes(b"cut")
    manifest = {
        "pkg/same.py": file_entry(b"same", 0o755),
        "pkg/other.py": file_entry(b"whole"),
        "pkg/missing.py": file_entry(b"missing"),
        "link": ["l", "pkg/same.py"],
        "train/gym": ["l", "../gym/"],
        "empty/inner": ["d", 0o750],
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return make_session(checkout_dir=str(root), manifest_path=str(tmp_path / "manifest.json"))


def test_the_manifest_is_checked_and_completed_at_boot(mounted: Session) -> None:
    root = Path(mounted.config.checkout_dir)
    _, files = get(mounted.attach())
    assert files is not None
    assert sorted(files) == ["empty/inner", "link", "pkg/same.py", "train/gym"]
    assert (root / "pkg" / "same.py").stat().st_mode & 0o777 == 0o755
    assert (root / "link").read_bytes() == b"same"
    assert (root / "train" / "gym").readlink() == Path("../gym")
    assert (root / "empty" / "inner").stat().st_mode & 0o777 == 0o750
    assert "2 entries" in mounted.log.read_text()


def test_a_known_generation_is_answered_without_payload(mounted: Session) -> None:
    channel = mounted.attach()
    generation, _ = get(channel)
    assert get(channel, generation) == (generation, None)


def test_files_links_folders_and_modes(session: Session, channel: Attached) -> None:
    root = session.checkout
    assert get(channel) == (1, {})
    entries = {
        "a/b/c.txt": file_entry(b"text"),
        "run.sh": file_entry(b"#!/bin/sh\n", 0o755),
        "zero": file_entry(b""),
        "to": ["l", "a/b"],
        "none": ["d", 0o700],
    }
    put(channel, "a/b/c.txt", b"text")
    put(channel, "run.sh", b"#!/bin/sh\n")
    put(channel, "zero", b"")
    assert isinstance(apply(channel, 1, entries), protocol.CheckoutState)
    assert (root / "to" / "c.txt").read_bytes() == b"text"
    assert (root / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (root / "a/b/c.txt").stat().st_mode & 0o777 == 0o644
    assert (root / "zero").read_bytes() == b""
    assert (root / "none").stat().st_mode & 0o777 == 0o700
    assert get(channel) == (2, entries)
    assert sorted(path.name for path in root.iterdir()) == ["a", "none", "run.sh", "to", "zero"]


def test_large_files_come_in_parts(session: Session, channel: Attached) -> None:
    data = os.urandom(3_000_001)
    put(channel, "big", data, part_bytes=protocol.CHUNK_BYTES)
    assert isinstance(apply(channel, 1, {"big": file_entry(data)}), protocol.CheckoutState)
    assert (session.checkout / "big").read_bytes() == data


def test_a_file_that_changed_while_it_was_sent_begins_again(session: Session, channel: Attached) -> None:
    channel.send(protocol.PutFile("f", 0o600, 0, last=False, payload=b"old and longer"))
    channel.send(protocol.PutFile("f", 0o600, 0, last=False, payload=b"new"))
    channel.send(protocol.PutFile("f", 0o644, 3, last=True))
    assert isinstance(apply(channel, 1, {"f": file_entry(b"new")}), protocol.CheckoutState)
    assert (session.checkout / "f").read_bytes() == b"new"


def test_nothing_changes_before_it_is_applied(session: Session, channel: Attached) -> None:
    change(channel, {"f": b"one"})
    put(channel, "f", b"two")
    get(channel)
    assert (session.checkout / "f").read_bytes() == b"one"


def test_removing_keeps_what_a_run_wrote(session: Session, channel: Attached) -> None:
    change(channel, {"pkg/a.py": b"a", "pkg/sub/b.py": b"b", "out/c.py": b"c"}, empty=["d", 0o755])
    channel.run("echo result >out/result")
    change(channel, {}, ["pkg/a.py", "pkg/sub/b.py", "out/c.py", "empty", "never"])
    assert sorted(str(path.relative_to(session.checkout)) for path in session.checkout.rglob("*")) == [
        "out",
        "out/result",
    ]


def test_what_a_run_changed_stays_until_the_user_changes_it(session: Session, channel: Attached) -> None:
    change(channel, {"f": b"one", "g": b"one"})
    channel.run("echo mine >f; echo mine >h")
    change(channel, {"g": b"two"})
    assert (session.checkout / "f").read_text() == "mine\n"
    assert (session.checkout / "h").read_text() == "mine\n"
    change(channel, {"f": b"two"}, ["h"])
    assert (session.checkout / "f").read_bytes() == b"two"
    assert not (session.checkout / "h").exists()


def test_only_the_mode_changes(session: Session, channel: Attached) -> None:
    change(channel, {"f": b"one"})
    assert isinstance(apply(channel, 2, {"f": file_entry(b"one", 0o700)}), protocol.CheckoutState)
    assert (session.checkout / "f").stat().st_mode & 0o777 == 0o700


def test_a_file_that_a_run_deleted_is_asked_for(channel: Attached) -> None:
    change(channel, {"f": b"one", "g": b"one"})
    channel.run("rm f")
    assert code(apply(channel, 2, {"f": file_entry(b"one", 0o700)})) == "stale"
    assert get(channel) == (3, {"g": file_entry(b"one")})


def test_kinds_change_places(session: Session, channel: Attached) -> None:
    change(channel, {"a": b"file", "b/x": b"in b", "c/x": b"in c"}, link=["l", "b"])
    # A file becomes a folder, a folder a file, a folder a link, a link a folder.
    change(channel, {"a/x": b"in a", "b": b"file", "link/x": b"in link"}, ["a", "b/x", "c/x", "link"], c=["l", "a"])
    root = session.checkout
    assert (root / "a" / "x").read_bytes() == b"in a"
    assert (root / "b").read_bytes() == b"file"
    assert (root / "c").readlink() == Path("a")
    assert not (root / "link").is_symlink()
    assert (root / "link" / "x").read_bytes() == b"in link"


def test_a_folder_that_holds_a_runs_files_stays(session: Session, channel: Attached) -> None:
    change(channel, {"d/x": b"1"})
    channel.run("echo precious >d/result")
    put(channel, "d", b"a file now")
    assert code(apply(channel, 2, {"d": file_entry(b"a file now")}, ["d/x"])) == "conflict"
    assert (session.checkout / "d" / "result").read_text() == "precious\n"
    assert get(channel) == (3, {})


def test_a_stale_change_touches_nothing(session: Session) -> None:
    one, two = session.attach(), session.attach()
    generation, _ = get(one)
    change(two, {"f": b"two", "g": b"two"})
    put(one, "f", b"one")
    assert code(apply(one, generation, {"f": file_entry(b"one")}, ["g"])) == "stale"
    assert (session.checkout / "f").read_bytes() == b"two"
    assert (session.checkout / "g").exists()
    change(one, {"f": b"one"})
    assert (session.checkout / "f").read_bytes() == b"one"
    assert get(two) == (3, {"f": file_entry(b"one"), "g": file_entry(b"two")})


@pytest.mark.parametrize("path", ["/etc/passwd", "../out", "a/../../out", "", ".", "a\0b", "/"])
def test_paths_outside_are_refused(session: Session, channel: Attached, path: str) -> None:
    put(channel, path, b"bad")
    put(channel, "good", b"good")
    assert channel.wait_for(protocol.Failed).code == "bad_path"
    # The change that needed it is refused as well, whatever else it says.
    assert code(apply(channel, 1, {"good": file_entry(b"good")})) == "bad_path"
    assert code(apply(channel, 1, {path: ["d", 0o755]})) == "bad_path"
    assert code(apply(channel, 1, {}, [path])) == "bad_path"
    assert get(channel) == (1, {})
    assert not (session.folder / "out").exists()
    assert not (session.checkout / "good").exists()


def test_links_that_lead_out_are_not_followed(channel: Attached, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "there").write_text("there")
    assert isinstance(apply(channel, 1, {"out": ["l", str(outside)]}), protocol.CheckoutState)
    put(channel, "out/new", b"bad")
    assert code(apply(channel, 2, {"out/new": file_entry(b"bad")})) == "bad_path"
    for request in ({"out/new/deep": ["d", 0o755]}, {"out/link": ["l", "x"]}):
        generation, _ = get(channel)
        assert code(apply(channel, generation, request)) == "bad_path"
    generation, _ = get(channel)
    assert code(apply(channel, generation, {}, ["out/there"])) == "bad_path"
    assert [path.name for path in outside.iterdir()] == ["there"]


def test_a_client_that_leaves_in_the_middle_leaves_nothing(session: Session) -> None:
    channel = session.attach()
    channel.send(protocol.PutFile("f", 0o644, 0, last=False, payload=b"half"))
    get(channel)
    assert channel.process.stdin is not None
    channel.process.stdin.close()
    assert channel.process.wait(60) == 0
    assert list(session.checkout.iterdir()) == []


def test_names_that_are_not_utf8_keep_their_bytes(session: Session, channel: Attached) -> None:
    name = os.fsdecode(b"caf\xe9")
    change(channel, {name: b"1"})
    assert [os.fsencode(path.name) for path in session.checkout.iterdir()] == [b"caf\xe9"]
    assert get(channel)[1] == {name: file_entry(b"1")}
