"""A checkout that somebody else has made: it is scanned in a bounded time, and nothing outside it is read."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skyrl_magic.core.errors import CheckoutError
from skyrl_magic.service import ignore, tree_walk
from skyrl_magic.service.checkout import Checkout, CheckoutReader
from skyrl_magic.service.small_files import read_small
from skyrl_magic.service.sync import Sent

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "SkyRL"
    (folder / "skyrl-gym").mkdir(parents=True)
    return folder


@pytest.fixture
def reader(root: Path) -> CheckoutReader:
    return CheckoutReader(Checkout(root, old_layout=False))


def refusal(reader: CheckoutReader) -> str:
    with pytest.raises(CheckoutError) as caught:
        reader.scan()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- .skyrlignore ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.symlink_to("/dev/zero"), "it is a link, which is not followed"),
        (lambda path: path.symlink_to(path), "it is a link, which is not followed"),
        (os.mkfifo, "it is no regular file"),
        (lambda path: path.mkdir(), "it is no regular file"),
        (lambda path: path.write_text("a\n" * 40_000), "it has more than 65,536 bytes"),
        (lambda path: path.write_text("a\n" * 1_001), "it has more than 1,000 patterns"),
    ],
)
def test_a_skyrlignore_that_is_none(
    root: Path, reader: CheckoutReader, make: Callable[[Path], object], says: str
) -> None:
    make(root / ".skyrlignore")
    assert refusal(reader) == f".skyrlignore cannot be read: {says}"


def test_patterns_that_took_exponential_time(root: Path, reader: CheckoutReader) -> None:
    (root / ".skyrlignore").write_text("*a" * 40 + "b\n" + "**/a/" * 40 + "b\n")
    deep = root.joinpath(*["a"] * 60)
    deep.mkdir(parents=True)
    (deep / ("a" * 250)).touch()
    assert len(reader.scan().manifest) == 3


def test_patterns_that_take_too_long_together(
    root: Path, reader: CheckoutReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ignore.MAX_COMPARISONS == 20_000_000  # a quarter of a minute
    monkeypatch.setattr(ignore, "MAX_COMPARISONS", 200_000)
    (root / ".skyrlignore").write_text("\n".join(f"{'*?' * 30}{number}" for number in range(999)))
    for number in range(30):
        (root / f"{'a' * 240}{number}x").touch()
    assert refusal(reader) == (
        ".skyrlignore: its patterns take too long for so many files: give it fewer or shorter ones"
    )


# --- the tree -------------------------------------------------------------------------------------------------------


def test_a_very_deep_tree(root: Path, reader: CheckoutReader) -> None:
    here = os.open(root, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert refusal(reader) == (
        "the checkout has more than 100 folders in one another below deep: .skyrlignore leaves folders out"
    )


def test_paths_that_are_too_long_are_left_out(root: Path, reader: CheckoutReader) -> None:
    here = os.open(root, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (left_out,) = reader.scan().unreadable
    assert len(left_out) > 3_000


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_too_many_files(root: Path, reader: CheckoutReader, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tree_walk.MAX_FILES == 100_000
    monkeypatch.setattr(tree_walk, "MAX_FILES", 1_000)
    for number in range(1_001):
        path = root / str(number)
        {"file": path.touch, "link": lambda path=path: path.symlink_to("x"), "folder": path.mkdir}[kind]()
    assert refusal(reader) == "the checkout has more than 1,000 files: .skyrlignore leaves folders out"


def test_many_entries_that_are_left_out_all_the_same(
    root: Path, reader: CheckoutReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_walk, "MAX_LOOKED_AT", 1_000)
    for number in range(1_001):
        (root / f"{number}.pyc").touch()
    assert refusal(reader) == "the checkout has more than 1,000 entries: .skyrlignore leaves folders out"


def test_a_sparse_file_is_not_read(root: Path, reader: CheckoutReader) -> None:
    with (root / "huge").open("wb") as file:
        file.truncate(1 << 40)
    assert refusal(reader) == "the checkout has more than 20 GiB: .skyrlignore leaves folders out"


def test_sockets_and_pipes_are_named_in_one_line(
    root: Path, reader: CheckoutReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(root / "pipe")
    monkeypatch.chdir(root)  # a socket's path has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    scan = reader.scan()
    assert sorted(scan.special) == ["pipe", "socket"]
    assert Sent(special=["pipe", "socket"]).notes == [
        "2 of the checkout's files are sockets, pipes or devices and were left out: pipe"
    ]


# --- races ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def treasure(tmp_path: Path) -> Path:
    """A folder outside the checkout that a swapped link leads to."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("the treasure")
    return folder


@pytest.fixture
def swapped(root: Path, treasure: Path) -> Iterator[None]:
    """A folder of the checkout that is all the time swapped for a link to outside, and back."""
    folder, aside = root / "folder", root / "aside"
    folder.mkdir()
    (folder / "secret").write_text("nothing much")
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            folder.rename(aside)
            folder.symlink_to(treasure)
            folder.unlink()
            aside.rename(folder)
            for _ in range(50):  # the reader finds it now and then
                folder.stat()

    swapper = threading.Thread(target=swap)
    swapper.start()
    yield
    over.set()
    swapper.join()


@pytest.mark.usefixtures("swapped")
def test_a_folder_that_becomes_a_link_while_it_is_scanned(reader: CheckoutReader) -> None:
    for _ in range(300):
        scan = reader.scan()
        sizes = {entry[-1] for path, entry in scan.manifest.items() if path.endswith("/secret")}
        assert sizes <= {len("nothing much")}


@pytest.mark.usefixtures("swapped")
def test_a_folder_that_becomes_a_link_while_it_is_read(reader: CheckoutReader) -> None:
    read = 0
    while read < 100:
        try:
            data = b"".join(part for part in reader.read("folder/secret") if isinstance(part, bytes))
        except tree_walk.GONE:
            continue
        read += 1
        assert b"treasure" not in data


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_a_file_that_became_something_else(root: Path, reader: CheckoutReader, make: Callable[[Path], object]) -> None:
    make(root / "file")
    with pytest.raises(tree_walk.GONE):
        list(reader.read("file"))


# --- small files ----------------------------------------------------------------------------------------------------


def test_a_small_file_of_another_owner(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert read_small(tmp_path / "file", 1, owner=os.geteuid()) == b"x"
    with pytest.raises(PermissionError, match="another user"):
        read_small(tmp_path / "file", 1, owner=os.geteuid() + 1)
