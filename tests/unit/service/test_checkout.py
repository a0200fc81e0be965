from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyrl_magic.core.errors import CheckoutError
from skyrl_magic.core.protocol import pack_json, unpack_json
from skyrl_magic.service.checkout import (
    Checkout,
    CheckoutReader,
    Entry,
    Manifest,
    find_checkout,
    largest_folders,
    open_checkout,
)

LONG_AGO_NS = 1_600_000_000 * 10**9
NOBODY = 65534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "SkyRL"
    (folder / "skyrl-gym").mkdir(parents=True)
    (folder / "skyrl-gym" / "pyproject.toml").touch()
    return folder


@pytest.fixture
def reader(root: Path) -> CheckoutReader:
    return CheckoutReader(Checkout(root, old_layout=False))


def write(root: Path, path: str, text: str = "x") -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def age(root: Path) -> None:
    """Give the files a modification time long ago. Their change time is now: the kernel sets it."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))


def manifest(reader: CheckoutReader) -> Manifest:
    return reader.scan().manifest


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest(entry: Entry) -> object:
    """The hash of a file's bytes."""
    assert len(entry) == 4
    return entry[2]


def read_all(reader: CheckoutReader, path: str) -> tuple[bytes, Entry]:
    """What a client sends of a file: the bytes after the last restart, and the entry."""
    data = b""
    for part in reader.read(path):
        if isinstance(part, tuple):
            return data, part
        data = data + part if part else b""
    raise AssertionError("no entry came")


# --- finding it -----------------------------------------------------------------------------------------------------


def old_layout(root: Path) -> Path:
    (root / "skyrl-gym").mkdir(parents=True)
    write(root, "skyrl-train/pyproject.toml")
    (root / "skyrl-train" / "skyrl-gym").symlink_to("../skyrl-gym/")
    return root


def new_layout(root: Path) -> Path:
    (root / "skyrl-gym").mkdir(parents=True)
    write(root, "pyproject.toml")
    write(root, "skyrl-train/README.md")
    write(root, "skyrl/train/x.py")
    return root


def test_old_layout(tmp_path: Path) -> None:
    found = find_checkout(old_layout(tmp_path / "a"))
    assert found == Checkout(tmp_path / "a", old_layout=True)
    assert found.workdir == "/root/SkyRL/skyrl-train"


def test_new_layout_keeps_a_folder_skyrl_train_with_a_readme(tmp_path: Path) -> None:
    found = find_checkout(new_layout(tmp_path / "a"))
    assert found == Checkout(tmp_path / "a", old_layout=False)
    assert found.workdir == "/root/SkyRL"


def test_where_both_layouts_are_complete_the_old_one_wins(tmp_path: Path) -> None:
    root = new_layout(tmp_path / "a")
    write(root, "skyrl-train/pyproject.toml")
    assert find_checkout(root) == Checkout(root, old_layout=True)


@pytest.mark.parametrize("below", ["skyrl-train", "skyrl-train/skyrl-gym", "skyrl-gym", "skyrl-train/examples/gsm8k"])
def test_it_is_found_from_any_folder_in_it(tmp_path: Path, below: str) -> None:
    root = old_layout(tmp_path / "a")
    (root / below).mkdir(parents=True, exist_ok=True)
    assert find_checkout(root / below) == Checkout(root, old_layout=True)
    assert open_checkout(root / below) == Checkout(root, old_layout=True)


def test_none_is_found_where_none_is(tmp_path: Path) -> None:
    write(tmp_path, "skyrl-train/pyproject.toml")
    write(tmp_path, "skyrl-gym")  # a file
    assert find_checkout(tmp_path) is None
    with pytest.raises(CheckoutError, match="no SkyRL checkout"):
        open_checkout(tmp_path)
    with pytest.raises(CheckoutError, match="there is no such folder"):
        open_checkout(tmp_path / "missing")


# --- what belongs to it ---------------------------------------------------------------------------------------------


def test_files_modes_links_and_empty_folders(root: Path, reader: CheckoutReader) -> None:
    write(root, "run.sh", "#!/bin/sh\n").chmod(0o755)
    write(root, "deep/a/b/c.txt", "text").chmod(0o640)
    (root / "empty").mkdir(mode=0o755)
    (root / "outer" / "inner").mkdir(parents=True)
    (root / "to-file").symlink_to("run.sh")
    os.symlink("deep/a/", root / "to-folder")  # noqa: PTH211 - a Path would drop the "/"
    (root / "to-nothing").symlink_to("/no/such/path")
    (root / "loop").symlink_to("loop")
    assert manifest(reader) == {
        "skyrl-gym/pyproject.toml": ("f", 0o644, sha256(b""), 0),
        "run.sh": ("f", 0o755, sha256(b"#!/bin/sh\n"), 10),
        "deep/a/b/c.txt": ("f", 0o640, sha256(b"text"), 4),
        "empty": ("d", 0o755),
        "outer/inner": ("d", 0o755),
        "to-file": ("l", "run.sh"),
        "to-folder": ("l", "deep/a/"),
        "to-nothing": ("l", "/no/such/path"),
        "loop": ("l", "loop"),
    }
    assert reader.scan().size_bytes == 14


def test_what_upstream_leaves_out_is_left_out_at_any_depth(root: Path, reader: CheckoutReader) -> None:
    names = (".venv", "__pycache__", ".git", ".pytest_cache", "node_modules", "a.egg-info")
    for prefix in ("", "one/", "one/two/three/"):
        for name in names:
            write(root, f"{prefix}{name}/file")
        write(root, f"{prefix}.DS_Store")
        write(root, f"{prefix}m.pyc")
        write(root, f"{prefix}kept.py")
    write(root, ".github/x")
    write(root, "venv/y")
    assert set(manifest(reader)) == {
        "skyrl-gym/pyproject.toml", "kept.py", "one/kept.py", "one/two/three/kept.py", ".github/x", "venv/y",
    }  # fmt: skip


def test_a_worktrees_git_file_is_left_out(root: Path, reader: CheckoutReader) -> None:
    write(root, ".git", "gitdir: /elsewhere")
    assert ".git" not in manifest(reader)


def test_skyrlignore_speaks_gitignore_and_gitignore_is_not_applied(root: Path, reader: CheckoutReader) -> None:
    write(root, ".gitignore", "*\n")
    write(root, ".skyrlignore", "# big things\n*.bin\n!keep.bin\n/data/\nlogs/*.txt\nwandb/\n")
    for path in ("a.bin", "deep/b.bin", "keep.bin", "data/x", "deep/data/x", "logs/l.txt", "logs/l.md", "deep/wandb/w"):
        write(root, path)
    assert set(manifest(reader)) == {
        "skyrl-gym/pyproject.toml", ".gitignore", ".skyrlignore", "keep.bin", "deep/data/x", "logs/l.md",
    }  # fmt: skip


def test_skyrlignore_is_read_anew_each_time(root: Path, reader: CheckoutReader) -> None:
    write(root, "a.bin")
    assert "a.bin" in manifest(reader)
    write(root, ".skyrlignore", "*.bin")
    assert "a.bin" not in manifest(reader)
    (root / ".skyrlignore").unlink()
    assert "a.bin" in manifest(reader)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"[z-a]", b"a\\"])
def test_a_skyrlignore_that_cannot_be_read_is_named(root: Path, reader: CheckoutReader, data: bytes) -> None:
    (root / ".skyrlignore").write_bytes(data)
    with pytest.raises(CheckoutError, match=r"^\.skyrlignore cannot be read"):
        reader.scan()


def test_a_folder_of_ignored_things_is_kept_as_an_empty_one(root: Path, reader: CheckoutReader) -> None:
    write(root, "cache/__pycache__/m.pyc")
    assert manifest(reader)["cache"] == ("d", stat.S_IMODE((root / "cache").stat().st_mode))


def test_sockets_and_fifos_are_left_out_and_their_folder_is_kept(root: Path, reader: CheckoutReader) -> None:
    (root / "run").mkdir()
    os.mkfifo(root / "run" / "fifo")
    here = Path.cwd()
    os.chdir(root / "run")  # a socket's path has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")
            found = manifest(reader)
    finally:
        os.chdir(here)
    assert {path for path in found if path.startswith("run")} == {"run"}
    assert found["run"][0] == "d"


def test_names_that_are_not_utf8(root: Path, reader: CheckoutReader) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    write(root, name, "latin")
    (root / "link").symlink_to(name)
    found = manifest(reader)
    assert found[name] == ("f", stat.S_IMODE((root / name).stat().st_mode), sha256(b"latin"), 5)
    assert found["link"] == ("l", name)
    assert {path: tuple(entry) for path, entry in unpack_json(pack_json(found)).items()} == found
    assert read_all(reader, name)[0] == b"latin"


@pytest.mark.parametrize(
    "name", ["with space", "ünï", "quote'\"", "new\nline", "-dash", "$x", "back\\slash", "#hash", "!bang"]
)
def test_odd_names(root: Path, reader: CheckoutReader, name: str) -> None:
    write(root, ".skyrlignore", "*.bin\n")
    write(root, f"{name}/{name}", "odd")
    assert manifest(reader)[f"{name}/{name}"][2:] == (sha256(b"odd"), 3)


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Root reads everything: the test's thread looks at files as another user."""
    libc = ctypes.CDLL(None)
    before = libc.setfsuid(NOBODY if os.geteuid() == 0 else os.geteuid())
    yield
    libc.setfsuid(before)


def test_what_cannot_be_read_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    write(root, "secret.txt").chmod(0)
    closed = write(root, "closed/x").parent
    closed.chmod(0)
    write(root, "listed/x").parent.chmod(0o744)  # its names can be read, and nothing else
    root.chmod(0o755)
    monkeypatch.chdir(root)  # that user cannot come here through the parent folders
    reader = CheckoutReader(Checkout(Path(), old_layout=False))
    request.getfixturevalue("as_nobody")
    scan = reader.scan()
    assert sorted(scan.unreadable) == ["closed", "listed/x", "secret.txt"]
    assert {path for path, entry in scan.manifest.items() if entry[0] == "f"} == {"skyrl-gym/pyproject.toml"}


def test_a_checkout_that_is_gone(root: Path, reader: CheckoutReader) -> None:
    root.rename(root.parent / "elsewhere")
    with pytest.raises(CheckoutError, match="is gone"):
        reader.scan()


def test_largest_folders(root: Path, reader: CheckoutReader) -> None:
    write(root, "small/a", "x" * 10)
    write(root, "large/deep/a", "x" * 1000)
    write(root, "large/b", "x" * 1000)
    write(root, "top.txt", "x" * 100)
    assert largest_folders(manifest(reader), 3) == [("large", 2000), ("top.txt", 100), ("small", 10)]


# --- changes --------------------------------------------------------------------------------------------------------


def test_what_changed_is_seen(root: Path, reader: CheckoutReader) -> None:
    write(root, "a", "one")
    write(root, "b", "two")
    before = manifest(reader)
    write(root, "a", "ONE")
    (root / "b").unlink()
    write(root, "c", "three")
    after = manifest(reader)
    assert before["a"] != after["a"]
    assert "b" not in after
    assert after["c"][2:] == (sha256(b"three"), 5)


def test_a_mode_a_type_and_a_links_target_are_changes(root: Path, reader: CheckoutReader) -> None:
    write(root, "a").chmod(0o644)
    (root / "link").symlink_to("a")
    write(root, "thing")
    first = manifest(reader)
    (root / "a").chmod(0o755)
    (root / "link").unlink()
    (root / "link").symlink_to("b")
    (root / "thing").unlink()
    (root / "thing").mkdir()
    second = manifest(reader)
    assert (first["a"][1], second["a"][1]) == (0o644, 0o755)
    assert (first["link"], second["link"]) == (("l", "a"), ("l", "b"))
    assert (first["thing"][0], second["thing"][0]) == ("f", "d")


def hashed_paths(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that the reader hashes from now on, as it does it."""
    found: list[str] = []
    real = CheckoutReader._hash

    def watched(self: CheckoutReader, path: str) -> tuple[tuple[int, int, int, int, int], str]:
        found.append(path)
        return real(self, path)

    monkeypatch.setattr(CheckoutReader, "_hash", watched)
    return found


def wait_until_settled(root: Path) -> None:
    """Wait until the last change is older than the file system's clock can blur."""
    newest_ns = max(max(info.st_mtime_ns, info.st_ctime_ns) for info in (path.lstat() for path in root.rglob("*")))
    time.sleep(max(0.0, 2.1 - (time.time_ns() - newest_ns) / 1e9))


def test_only_what_changed_is_hashed_again(root: Path, reader: CheckoutReader, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        write(root, name)
    wait_until_settled(root)
    hashed = hashed_paths(monkeypatch)
    manifest(reader)
    assert sorted(hashed) == ["a", "b", "c", "skyrl-gym/pyproject.toml"]
    hashed.clear()
    write(root, "b", "y")
    manifest(reader)
    assert hashed == ["b"]


def test_a_file_that_changed_just_now_is_hashed_again(root: Path, reader: CheckoutReader) -> None:
    # A change within the tick of the file system's clock leaves size, time and inode as they were.
    file = write(root, "a", "one")
    now_ns = time.time_ns()
    os.utime(file, ns=(now_ns, now_ns))
    assert digest(manifest(reader)["a"]) == sha256(b"one")
    file.write_text("two")
    os.utime(file, ns=(now_ns, now_ns))
    assert digest(manifest(reader)["a"]) == sha256(b"two")


def test_a_fresh_file_with_an_old_time_is_not_trusted(
    root: Path, reader: CheckoutReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    # tar and rsync set the modification time: twice within a tick they leave the same signature.
    write(root, "a")
    age(root)
    hashed = hashed_paths(monkeypatch)
    manifest(reader)
    manifest(reader)
    assert hashed.count("a") == 2


names = st.sampled_from(["a", "b", "sub", "x.py", "__pycache__"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
changes = st.tuples(st.sampled_from(["write", "mkdir", "link", "remove"]), paths, st.text("xyz", max_size=3))


def apply(root: Path, kind: str, path: str, text: str) -> None:
    target = root / path
    try:
        if kind == "write":
            write(root, path, text)
        elif kind == "mkdir":
            target.mkdir(parents=True, exist_ok=True)
        elif kind == "link":
            target.symlink_to(text or "a")
        elif target.is_dir() and not target.is_symlink():
            target.rmdir()
        else:
            target.unlink()
    except OSError:
        pass  # the change does not fit what is there


@given(st.lists(st.lists(changes, max_size=6), max_size=4))
@settings(max_examples=50, deadline=None)
def test_a_reader_that_remembers_sees_what_a_new_one_sees(steps: list[list[tuple[str, str, str]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkout = Checkout(Path(folder), old_layout=False)
        reader = CheckoutReader(checkout)
        for step in steps:
            for change in step:
                apply(checkout.root, *change)
            found = manifest(reader)
            assert found == manifest(CheckoutReader(checkout))
            assert_true_of(checkout.root, found)


def assert_true_of(root: Path, found: Manifest) -> None:
    for path, entry in found.items():
        if entry[0] == "f":
            assert entry[2:] == (sha256((root / path).read_bytes()), (root / path).lstat().st_size)
        elif entry[0] == "l":
            assert (root / path).readlink() == Path(str(entry[1]))
        else:
            assert (root / path).is_dir()
        assert "__pycache__" not in path.split("/")


# --- changes while it is read ---------------------------------------------------------------------------------------


class Busy:
    """A thread that repeats an action until the test is over."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def repeat(self, action: object) -> None:
        assert callable(action)
        begun = threading.Event()

        def run() -> None:
            while not self._stop.is_set():
                action()
                begun.set()

        thread = threading.Thread(target=run)
        thread.start()
        self._threads.append(thread)
        assert begun.wait(30)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


@pytest.fixture
def busy() -> Iterator[Busy]:
    found = Busy()
    yield found
    found.stop()


def test_a_file_is_sent_whole_while_another_process_replaces_it(root: Path, reader: CheckoutReader, busy: Busy) -> None:
    contents = [bytes([n]) * (200_000 + n) for n in range(4)]
    (root / "a").write_bytes(contents[0])
    turn = 0

    def replace() -> None:
        nonlocal turn
        turn += 1
        (root / ".new").write_bytes(contents[turn % 4])
        (root / ".new").replace(root / "a")

    busy.repeat(replace)
    for _ in range(30):
        # A writer that never rests is refused, and what is taken is whole.
        with contextlib.suppress(CheckoutError):
            data, entry = read_all(reader, "a")
            assert data in contents
            assert entry[2:] == (sha256(data), len(data))
        with contextlib.suppress(CheckoutError):
            assert digest(manifest(reader)["a"]) in {sha256(content) for content in contents}
    busy.stop()
    assert read_all(reader, "a")[0] == contents[turn % 4]


def test_what_is_sent_is_what_its_entry_says_while_a_writer_appends(
    root: Path, reader: CheckoutReader, busy: Busy
) -> None:
    file = root / "log"
    file.write_bytes(b"begin\n")

    def append() -> None:
        with file.open("ab") as out:
            out.write(b"line\n")

    busy.repeat(append)
    for _ in range(50):
        with contextlib.suppress(CheckoutError):
            data, entry = read_all(reader, "log")
            assert entry[2:] == (sha256(data), len(data))
    busy.stop()
    data, entry = read_all(reader, "log")
    assert data == file.read_bytes()
    assert entry[2:] == (sha256(data), len(data))


def test_a_file_that_grows_while_it_is_read_is_read_again(root: Path, reader: CheckoutReader) -> None:
    file = root / "a"
    file.write_bytes(b"1" * 600_000)
    parts = reader.read("a")
    assert next(parts) == b"1" * 262_144
    with file.open("ab") as out:
        out.write(b"2")
    rest = list(parts)
    assert rest.count(b"") == 1
    sent = b"".join(part for part in rest[rest.index(b"") + 1 : -1] if isinstance(part, bytes))
    assert sent == b"1" * 600_000 + b"2"
    entry = rest[-1]
    assert isinstance(entry, tuple)
    assert entry[2:] == (sha256(sent), 600_001)


def test_a_file_that_never_rests_is_named(root: Path, reader: CheckoutReader) -> None:
    file = root / "a"
    file.write_bytes(b"1")

    def read() -> None:
        for part in reader.read("a"):
            if part:
                file.write_bytes(b"2" * (file.stat().st_size + 1))

    with pytest.raises(CheckoutError, match=r"^a changes all the time while it is read: .*\.skyrlignore"):
        read()


def test_files_and_folders_may_go_while_they_are_listed(root: Path, reader: CheckoutReader, busy: Busy) -> None:
    write(root, "kept", "kept")

    def come_and_go() -> None:
        for n in range(8):
            write(root, f"tmp/{n}/file")
        for n in range(8):
            (root / f"tmp/{n}/file").unlink()
            (root / f"tmp/{n}").rmdir()
        (root / "tmp").rmdir()

    def change_kind() -> None:
        write(root, "thing")
        (root / "thing").unlink()
        (root / "thing").mkdir()
        (root / "thing").rmdir()
        (root / "thing").symlink_to("kept")
        (root / "thing").unlink()

    busy.repeat(come_and_go)
    busy.repeat(change_kind)
    for _ in range(60):
        scan = reader.scan()
        assert scan.manifest["kept"][2:] == (sha256(b"kept"), 4)
        assert scan.unreadable == []


def test_reading_a_file_that_is_gone(reader: CheckoutReader) -> None:
    with pytest.raises(FileNotFoundError):
        read_all(reader, "missing")
