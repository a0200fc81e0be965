"""A sandbox ends when it must, whatever it asks of its keeper and leaves on its volumes."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import modal
import pytest

from skyrl_magic.loopback.commit_limits import CommitLimits, CommitStoppedError, TooLateError
from skyrl_magic.loopback.daemon import ServerAddress
from skyrl_magic.loopback.documents import read_json
from skyrl_magic.loopback.layout import Layout
from skyrl_magic.loopback.runtime import replies
from skyrl_magic.loopback.runtime.mounted import remove_tree
from skyrl_magic.loopback.trees import Baseline
from skyrl_magic.loopback.volumes import Volume, VolumeStore
from tests.loopback.making import SandboxMaker, run, until

#: How long an end may take with nothing to commit, in seconds: the machine may be busy.
SOON_S = 30.0


@pytest.fixture
def maker(modal_client: modal.Client) -> Iterator[SandboxMaker]:
    made = SandboxMaker(modal_client, None)
    yield made
    made.close()


@pytest.fixture
def volume(modal_client: modal.Client) -> Iterator[modal.Volume]:
    name = f"v-{uuid.uuid4().hex[:12]}"
    yield modal.Volume.from_name(name, create_if_missing=True, version=2, client=modal_client)
    modal.Volume.objects.delete(name, client=modal_client)


def end_of(server: ServerAddress, sandbox: modal.Sandbox) -> dict[str, object]:
    """What its keeper wrote down."""
    path = server.state_dir / "sandboxes" / sandbox.object_id / "exit.json"
    return dict(until(lambda: read_json(path)))


MALFORMED = r"""
cd /run/skyrl_loopback
ask() { printf "$1\n" >>requests; }
ask 'commit reply.\000 /root/data//'
ask 'commit reply.a\000b /root/data//'
ask 'commit reply.\377 /root/data//'
ask 'commit reply.../../x /root/data//'
ask 'commit'; ask 'commit '; ask ' '; ask 'ready'; ask 'ready'; ask '\000\001\377'
ask 'commit reply.x /root/data\000//\377//'
ask "commit reply.$(head -c 300 /dev/zero | tr '\0' a) /root/data//"
head -c 200000 /dev/zero | tr '\0' x >>requests; ask ''
ln -s /etc/passwd reply.link; ask 'commit reply.link /root/data//'
mkdir reply.folder; ask 'commit reply.folder /root/data//'
mkfifo reply.nobody; ask 'commit reply.nobody /root/data//'
"""


def test_malformed_requests_change_nothing(
    maker: SandboxMaker, volume: modal.Volume, loopback_server: ServerAddress
) -> None:
    sandbox = maker(volumes={"/root/data": volume})
    assert run(sandbox, MALFORMED)[0] == 0
    assert run(sandbox, "echo x >/root/data/file; sync /root/data") == (0, "", "")
    sandbox.terminate()
    assert end_of(loopback_server, sandbox)["reason"] == "terminated"
    assert b"".join(volume.read_file("file")) == b"x\n"


FLOOD = """
import os
requests = os.open("/run/skyrl_loopback/requests", os.O_WRONLY)
for number in range(6000):
    os.mkdir(f"/root/data/d{number}")
print("flood", flush=True)
number = 0
while True:
    os.write(requests, b"commit reply.%d /root/data//\\n" % number)
    number += 1
"""


def test_a_flood_of_requests_does_not_put_the_end_off(maker: SandboxMaker, volume: modal.Volume) -> None:
    sandbox = maker(volumes={"/root/data": volume})
    flooding = sandbox.exec("python3", "-c", FLOOD)
    assert next(iter(flooding.stdout)) == "flood\n"
    run(sandbox, "sleep 5")  # so many requests come in that time
    began_s = time.monotonic()
    sandbox.terminate()
    assert time.monotonic() - began_s < SOON_S
    assert len(volume.listdir("/")) == 6000


def test_a_sparse_file_does_not_put_the_end_off(
    maker: SandboxMaker, volume: modal.Volume, loopback_server: ServerAddress
) -> None:
    sandbox = maker(volumes={"/root/data": volume})
    assert run(sandbox, "truncate -s 1T /root/data/large; echo x >/root/data/small")[0] == 0
    began_s = time.monotonic()
    sandbox.terminate()
    assert time.monotonic() - began_s < SOON_S
    assert b"".join(volume.read_file("small")) == b"x\n"
    assert [entry.path for entry in volume.listdir("/")] == ["small"]
    assert end_of(loopback_server, sandbox)["left_out"] == "'large'"
    said = f"the last commit of {sandbox.object_id} left out 'large'"
    until(lambda: said in (loopback_server.state_dir / "server.log").read_text("utf-8"))


def test_a_commit_that_goes_on_is_stopped_by_the_end(maker: SandboxMaker, volume: modal.Volume) -> None:
    sandbox = maker(volumes={"/root/data": volume})
    assert run(sandbox, "truncate -s 1T /root/data/large")[0] == 0
    syncing = sandbox.exec("sh", "-c", "echo begun; sync /root/data")
    assert next(iter(syncing.stdout)) == "begun\n"
    run(sandbox, "sleep 2")
    began_s = time.monotonic()
    sandbox.terminate()
    assert time.monotonic() - began_s < SOON_S


# --- the bounds themselves -------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path) -> Volume:
    Layout(tmp_path / "state").create()
    return VolumeStore(tmp_path / "state").create("main", "v", 2)


@pytest.fixture
def live(tmp_path: Path) -> Path:
    folder = tmp_path / "live"
    folder.mkdir()
    for name, size_bytes in (("a", 10), ("b", 1000), ("c", 10)):
        (folder / name).write_bytes(b"x" * size_bytes)
    return folder


def test_what_is_too_large_is_left_out_and_taken_later(stored: Volume, live: Path) -> None:
    limits = CommitLimits(size_bytes=100)
    after = stored.commit(live, Baseline({}), limits)
    assert (sorted(stored.manifest().entries), limits.left_out) == (["a", "c"], "'b'")
    (live / "b").write_bytes(b"y" * 50)
    stored.commit(live, after, CommitLimits(size_bytes=100))
    assert sorted(stored.manifest().entries) == ["a", "b", "c"]


def test_what_was_committed_before_stays_where_the_new_is_left_out(stored: Volume, live: Path) -> None:
    after = stored.commit(live, Baseline({}))
    before = dict(stored.manifest().entries)
    (live / "b").write_bytes(b"z" * 2000)
    stored.commit(live, after, CommitLimits(size_bytes=100))
    assert stored.manifest().entries == before


def test_a_commit_that_is_too_late_or_stopped_changes_nothing(stored: Volume, live: Path) -> None:
    with pytest.raises(TooLateError, match="was not done within"):
        stored.commit(live, Baseline({}), CommitLimits(seconds=-1))
    stopped = CommitLimits()
    stopped.stop()
    with pytest.raises(CommitStoppedError, match="was stopped"):
        stored.commit(live, Baseline({}), stopped)
    assert stored.manifest().entries == {}


def test_left_out_files_are_named_in_one_line() -> None:
    limits = CommitLimits(size_bytes=0)
    assert limits.left_out == ""
    for number in range(1005):
        assert not limits.takes(f"file\n{number}", 1)
    assert limits.left_out.endswith(" and 1,000 more")
    assert "\n" not in limits.left_out


def test_an_answer_that_nobody_takes_leaves_nothing_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "reply.x")
    reader = os.open(tmp_path / "reply.x", os.O_RDWR | os.O_NONBLOCK)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        replies.answer(tmp_path / "reply.x", "e" * 60_000)  # the second is more than the pipe holds
    assert len(list(Path("/proc/self/fd").iterdir())) == opened
    os.close(reader)


def test_a_tree_as_deep_as_anybody_could_make_it_is_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    folder = os.open(tree, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    remove_tree(tree)
    assert not tree.exists()
