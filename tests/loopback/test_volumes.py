"""The store of volumes: what live copies and the committed tree know of each other."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyrl_magic.loopback.layout import Layout
from skyrl_magic.loopback.livetree import BLOCK_BYTES
from skyrl_magic.loopback.trees import FILE, Baseline, Entry, Manifest, TreeError
from skyrl_magic.loopback.volumes import Volume, VolumeMissingError, VolumeStore


@pytest.fixture
def store(tmp_path: Path) -> VolumeStore:
    """An empty store."""
    layout = Layout(tmp_path / "state")
    layout.create()
    return VolumeStore(layout.root)


@pytest.fixture
def volume(store: VolumeStore) -> Volume:
    """An empty volume."""
    return store.create("main", "data", 2)


class Copy:
    """A live copy, as a sandbox has one."""

    def __init__(self, volume: Volume, path: Path) -> None:
        self.volume = volume
        self.path = path
        self.baseline = volume.materialize(path)

    def commit(self) -> None:
        # Through JSON, as the keeper keeps it.
        self.baseline = self.volume.commit(self.path, self._stored())

    def reload(self) -> None:
        self.baseline = self.volume.reload(self.path, self._stored())

    def _stored(self) -> Baseline:
        return Baseline.from_json(json.loads(json.dumps(self.baseline.to_json())))

    def write(self, name: str, content: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def tree(self) -> dict[str, str]:
        """Every path and what it holds."""
        return tree(self.path)


def tree(root: Path) -> dict[str, str]:
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = "/" if path.is_dir() else path.read_text()
    return found


def committed(volume: Volume, tmp_path: Path) -> dict[str, str]:
    """What a sandbox that starts now would see."""
    path = tmp_path / f"look-{os.urandom(4).hex()}"
    volume.materialize(path)
    return tree(path)


def test_nothing_is_visible_before_the_commit(volume: Volume, tmp_path: Path) -> None:
    one = Copy(volume, tmp_path / "one")
    one.write("a/b.txt", "hello")
    assert committed(volume, tmp_path) == {}
    one.commit()
    assert committed(volume, tmp_path) == {"a": "/", "a/b.txt": "hello"}
    one.write("a/b.txt", "more")
    (one.path / "a/c").symlink_to("b.txt")
    one.commit()
    assert committed(volume, tmp_path) == {"a": "/", "a/b.txt": "more", "a/c": "-> b.txt"}


def test_deletions_and_changes_of_kind(volume: Volume, tmp_path: Path) -> None:
    one = Copy(volume, tmp_path / "one")
    for name in ("dir/x", "dir/deep/y", "file", "gone/z"):
        one.write(name, name)
    one.commit()
    (one.path / "file").unlink()
    one.write("file/inside", "now a directory")
    for name in ("dir/deep/y", "dir/x"):
        (one.path / name).unlink()
    (one.path / "dir/deep").rmdir()
    (one.path / "dir").rmdir()
    one.write("dir", "now a file")
    (one.path / "gone/z").unlink()
    one.commit()
    assert committed(volume, tmp_path) == one.tree()
    assert one.tree() == {"dir": "now a file", "file": "/", "file/inside": "now a directory", "gone": "/"}


def test_modes_times_and_empty_directories(volume: Volume, tmp_path: Path) -> None:
    one = Copy(volume, tmp_path / "one")
    one.write("ro/script", "#!/bin/sh")
    (one.path / "ro/script").chmod(0o751)
    (one.path / "empty").mkdir()
    os.utime(one.path / "ro/script", ns=(1_000_000_007, 1_234_567_890_123_456_789))
    (one.path / "ro").chmod(0o555)
    one.commit()
    two = Copy(volume, tmp_path / "two")
    assert (two.path / "ro/script").stat().st_mode & 0o7777 == 0o751
    assert (two.path / "ro/script").stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert (two.path / "ro").stat().st_mode & 0o7777 == 0o555
    assert (two.path / "empty").is_dir()
    for copy in (one, two):
        (copy.path / "ro").chmod(0o755)


def test_names_that_are_no_utf8(volume: Volume, tmp_path: Path) -> None:
    one = Copy(volume, tmp_path / "one")
    name = os.fsdecode(b"caf\xe9\n'\"")
    (one.path / name).write_bytes(b"x")
    (one.path / "link").symlink_to(name)
    one.commit()
    two = Copy(volume, tmp_path / "two")
    assert sorted(path.name for path in two.path.iterdir()) == [name, "link"]
    assert (two.path / "link").read_bytes() == b"x"


def test_pipes_and_sockets_are_left_out(volume: Volume, tmp_path: Path) -> None:
    one = Copy(volume, tmp_path / "one")
    os.mkfifo(one.path / "pipe")
    one.write("file", "x")
    one.commit()
    assert committed(volume, tmp_path) == {"file": "x"}


def test_sparse_files_and_blocks(volume: Volume, tmp_path: Path) -> None:
    one = Copy(volume, tmp_path / "one")
    content = b"a" * 10 + bytes(BLOCK_BYTES) + b"b" * BLOCK_BYTES + bytes(100)
    (one.path / "f").write_bytes(content)
    with (one.path / "sparse").open("wb") as file:
        file.truncate(3 * BLOCK_BYTES + 1)
    one.commit()
    two = Copy(volume, tmp_path / "two")
    assert (two.path / "f").read_bytes() == content
    assert (two.path / "sparse").stat().st_size == 3 * BLOCK_BYTES + 1
    assert not (two.path / "sparse").read_bytes().strip(b"\0")


def test_the_last_writer_wins_file_by_file(volume: Volume, tmp_path: Path) -> None:
    one, two = Copy(volume, tmp_path / "one"), Copy(volume, tmp_path / "two")
    one.write("shared", "from one")
    one.write("only-one", "1")
    one.commit()
    two.write("shared", "from two")
    two.write("only-two", "2")
    two.commit()
    expected = {"shared": "from two", "only-one": "1", "only-two": "2"}
    assert committed(volume, tmp_path) == expected
    # A commit of what one did not change does not undo two's.
    one.write("later", "3")
    one.commit()
    assert committed(volume, tmp_path) == {**expected, "later": "3"}


def test_deleting_a_directory_spares_what_others_put_there(volume: Volume, tmp_path: Path) -> None:
    one = Copy(volume, tmp_path / "one")
    one.write("d/mine", "1")
    one.commit()
    two = Copy(volume, tmp_path / "two")
    two.write("d/theirs", "2")
    two.commit()
    (one.path / "d/mine").unlink()
    (one.path / "d").rmdir()
    one.commit()
    assert committed(volume, tmp_path) == {"d": "/", "d/theirs": "2"}


def test_reload_brings_others_changes_and_keeps_ones_own(volume: Volume, tmp_path: Path) -> None:
    one = Copy(volume, tmp_path / "one")
    for name in ("kept", "changed", "deleted", "mine", "both", "d/x"):
        one.write(name, "0")
    one.commit()
    two = Copy(volume, tmp_path / "two")
    two.write("changed", "two")
    two.write("both", "two")
    two.write("new/file", "two")
    (two.path / "deleted").unlink()
    (two.path / "d/x").unlink()
    (two.path / "d").rmdir()
    two.commit()
    one.write("mine", "one")
    one.write("both", "one")
    one.write("uncommitted", "one")
    one.reload()
    expected = {"kept": "0", "changed": "two", "mine": "one", "both": "one", "uncommitted": "one"}
    expected |= {"new": "/", "new/file": "two"}
    assert one.tree() == expected
    one.commit()
    assert committed(volume, tmp_path) == expected


def test_reload_does_not_revive_what_was_deleted_here(volume: Volume, tmp_path: Path) -> None:
    one = Copy(volume, tmp_path / "one")
    one.write("f", "0")
    one.commit()
    (one.path / "f").unlink()
    one.reload()
    assert one.tree() == {}
    one.commit()
    assert committed(volume, tmp_path) == {}


def test_reload_with_changes_of_kind(volume: Volume, tmp_path: Path) -> None:
    one = Copy(volume, tmp_path / "one")
    one.write("a", "file")
    one.write("b/x", "file")
    one.commit()
    two = Copy(volume, tmp_path / "two")
    (two.path / "a").unlink()
    two.write("a/x", "now inside")
    (two.path / "b/x").unlink()
    (two.path / "b").rmdir()
    (two.path / "b").symlink_to("a")
    two.commit()
    one.reload()
    assert one.tree() == two.tree()


def test_a_change_right_after_a_commit_is_seen(volume: Volume, tmp_path: Path) -> None:
    """Same size, same clock tick: the times of the file may not tell."""
    one = Copy(volume, tmp_path / "one")
    for number in range(50):
        one.write("f", f"{number:03}")
        one.commit()
        assert volume.manifest().entries["f"].size_bytes == 3
        assert committed(volume, tmp_path) == {"f": f"{number:03}"}


def test_nothing_to_commit_reads_and_writes_nothing(volume: Volume, tmp_path: Path) -> None:
    one = Copy(volume, tmp_path / "one")
    one.write("f", "x")
    os.utime(one.path / "f", (1, 1))
    one.commit()
    manifest = next((tmp_path / "state/volumes").glob("*/manifest.json"))
    before = manifest.stat()
    baseline = one.baseline
    assert volume.commit(one.path, baseline) is baseline
    assert manifest.stat().st_ino == before.st_ino


def test_commit_without_the_live_folder_deletes_nothing(volume: Volume, tmp_path: Path) -> None:
    one = Copy(volume, tmp_path / "one")
    one.write("f", "x")
    one.commit()
    one.path.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        one.commit()
    assert committed(volume, tmp_path) == {"f": "x"}


def test_commits_of_several_processes_do_not_lose_each_other(volume: Volume, tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from skyrl_magic.loopback.volumes import VolumeStore
root, volume_id, live, name = sys.argv[1:]
volume = VolumeStore(Path(root)).get(volume_id)
baseline = volume.materialize(Path(live))
for number in range(20):
    Path(live, f"{name}-{number}").write_text(name)
    baseline = volume.commit(Path(live), baseline)
"""
    root = str(tmp_path / "state")
    commands = [
        [sys.executable, "-c", script, root, volume.object_id, str(tmp_path / name), name] for name in ("p", "q", "r")
    ]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    expected = {f"{name}-{number}" for name in "pqr" for number in range(20)}
    assert set(volume.manifest().entries) == expected


def test_commits_of_several_threads(volume: Volume, tmp_path: Path) -> None:
    copies = [Copy(volume, tmp_path / str(number)) for number in range(4)]

    def work(copy: Copy, number: int) -> None:
        for step in range(10):
            copy.write(f"{number}-{step}", "x")
            copy.commit()

    threads = [threading.Thread(target=work, args=(copy, number)) for number, copy in enumerate(copies)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(volume.manifest().entries) == 40


NAMES = ("a", "b", "a/a", "a/b", "b/a", "a/a/a")
STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "mkdir", "link", "delete", "chmod", "commit"]), st.sampled_from(NAMES)),
    max_size=25,
)


def step(root: Path, action: str, name: str, number: int) -> None:
    """Change the folder as a program might; what does not fit is left undone."""
    path = root / name
    with contextlib.suppress(OSError):
        if action == "delete" and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif action == "delete":
            path.unlink()
        elif action == "mkdir":
            path.mkdir()
        elif action == "link":
            path.symlink_to(f"target-{number}")
        elif action == "chmod" and not path.is_symlink():
            path.chmod(0o700 + number % 0o100)
        elif action == "write" and not path.is_symlink():
            path.write_text(f"{number:04}")


def modes(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.lstat().st_mode for path in root.rglob("*")}


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_whatever_a_program_does_the_commit_is_what_it_left(steps: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        layout = Layout(Path(scratch) / "state")
        layout.create()
        volume = VolumeStore(layout.root).create("main", "data", 2)
        one = Copy(volume, Path(scratch) / "one")
        other = Copy(volume, Path(scratch) / "other")
        for number, (action, name) in enumerate(steps):
            if action == "commit":
                one.commit()
            else:
                step(one.path, action, name, number)
        one.commit()
        fresh = Copy(volume, Path(scratch) / "fresh")
        assert fresh.tree() == one.tree()
        assert modes(fresh.path) == modes(one.path)
        # Who had the volume all the time and changed nothing sees the same after a reload.
        other.reload()
        assert other.tree() == one.tree()
        assert modes(other.path) == modes(one.path)


def test_commit_is_refused_for_a_deleted_volume(store: VolumeStore, volume: Volume, tmp_path: Path) -> None:
    one = Copy(volume, tmp_path / "one")
    one.write("f", "x")
    store.delete(volume.object_id)
    with pytest.raises(VolumeMissingError, match=volume.object_id):
        one.commit()
    with pytest.raises(VolumeMissingError):
        store.get(volume.object_id)


@pytest.mark.parametrize("volume_id", ["", "vo-none", "../volumes", "vo-../x", "sb-abc"])
def test_only_ids_of_volumes_are_ids(store: VolumeStore, volume_id: str) -> None:
    with pytest.raises(VolumeMissingError):
        store.get(volume_id)


def test_a_full_disk_loses_nothing(volume: Volume, tmp_path: Path) -> None:
    one = Copy(volume, tmp_path / "one")
    one.write("a", "old")
    one.commit()
    one.write("a", "new")
    # The real refusal of the kernel: files of this process may have no more bytes.
    script = """
import resource, signal, sys
from pathlib import Path
from skyrl_magic.loopback.trees import Baseline
from skyrl_magic.loopback.volumes import VolumeStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    VolumeStore(Path(sys.argv[1])).get(sys.argv[2]).commit(Path(sys.argv[3]), Baseline())
except OSError as error:
    sys.exit(7)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "state"), volume.object_id, str(one.path)]
    assert subprocess.run(command, check=False, timeout=60).returncode == 7
    assert committed(volume, tmp_path) == {"a": "old"}
    one.commit()
    assert committed(volume, tmp_path) == {"a": "new"}
    assert not list((tmp_path / "state").rglob(".*"))


def test_a_change_from_outside_is_all_or_nothing(volume: Volume) -> None:
    def broken(manifest: Manifest) -> None:
        manifest.entries.clear()
        raise TreeError

    volume.change(lambda manifest: manifest.put("f", Entry(FILE, 0o644, 0)))
    with pytest.raises(TreeError):
        volume.change(broken)
    assert list(volume.manifest().entries) == ["f"]


def test_contents_nobody_has_any_more_are_collected(store: VolumeStore, volume: Volume, tmp_path: Path) -> None:
    one = Copy(volume, tmp_path / "one")
    one.write("keep", "keep")
    one.write("drop", "drop")
    one.commit()
    (one.path / "drop").unlink()
    one.commit()
    assert store.blobs.collect(store.referenced()) == 0  # too young
    assert store.blobs.collect(store.referenced(), min_age_s=-60) == len("drop")
    assert committed(volume, tmp_path) == {"keep": "keep"}
