"""Quiet is only said when nothing can have changed: every way of changing something is tried."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skyrl_magic.service import changes
from skyrl_magic.service.changes import ChangeWatch
from skyrl_magic.service.checkout import Checkout, CheckoutReader

pytestmark = pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="Linux only")


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[ChangeWatch]:
    if changes._file_system(tmp_path) not in changes.LOCAL_FILE_SYSTEMS:
        pytest.skip("the temporary folder is on a file system that is never quiet")
    (tmp_path / "file").write_text("one")
    (tmp_path / "folder").mkdir()
    watch = ChangeWatch()
    watch.begin(tmp_path)
    for folder in (tmp_path, tmp_path / "folder"):
        watch.add(str(folder))
    yield watch
    watch.close()


def _mapped_write(root: Path) -> None:
    with (root / "file").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0] = 65


def _append(root: Path) -> None:
    with (root / "file").open("ab") as file:
        file.write(b"x")


def _replace(root: Path) -> None:
    (root / "folder" / "x").touch()
    (root / "folder" / "x").replace(root / "file")


CHANGES: dict[str, Callable[[Path], object]] = {
    "write": lambda root: (root / "file").write_text("two"),
    "append": _append,
    "mapped write": _mapped_write,
    "create": lambda root: (root / "new").touch(),
    "create below": lambda root: (root / "folder" / "new").touch(),
    "folder": lambda root: (root / "another").mkdir(),
    "symlink": lambda root: (root / "link").symlink_to("file"),
    "delete": lambda root: (root / "file").unlink(),
    "delete folder": lambda root: (root / "folder").rmdir(),
    "rename": lambda root: (root / "file").rename(root / "other"),
    "replace": _replace,
    "mode": lambda root: (root / "file").chmod(0o755),
    "time": lambda root: os.utime(root / "file", (1, 1)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_is_told(watch: ChangeWatch, tmp_path: Path, change: Callable[[Path], object]) -> None:
    assert watch.quiet()
    change(tmp_path)
    assert not watch.quiet()
    assert not watch.quiet()


def test_reading_changes_nothing(watch: ChangeWatch, tmp_path: Path) -> None:
    (tmp_path / "file").read_text()
    list(tmp_path.iterdir())
    assert watch.quiet()


def test_without_a_beginning_and_after_the_end_nothing_is_quiet(tmp_path: Path) -> None:
    watch = ChangeWatch()
    assert not watch.quiet()
    watch.begin(tmp_path)
    watch.close()
    assert not watch.quiet()


def test_a_file_system_that_others_change_is_never_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "LOCAL_FILE_SYSTEMS", frozenset({"none"}))
    watch = ChangeWatch()
    watch.begin(tmp_path)
    watch.add(str(tmp_path))
    assert not watch.quiet()


def test_a_folder_that_cannot_be_watched_makes_it_look_again(watch: ChangeWatch, tmp_path: Path) -> None:
    watch.add(str(tmp_path / "nowhere"))
    assert not watch.quiet()


@pytest.mark.usefixtures("watch")
def test_a_reader_returns_the_same_scan_only_while_nothing_changes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.py").write_text("1")
    reader = CheckoutReader(Checkout(tmp_path, old_layout=False))
    reader.watch()
    try:
        first = reader.scan()
        assert reader.scan() is first
        (tmp_path / "a" / "x.py").write_text("2")
        second = reader.scan()
        assert second.manifest != first.manifest
        assert reader.scan() is second
        (tmp_path / "a" / "b").mkdir()
        (tmp_path / "a" / "b" / "y.py").write_text("new")
        assert "a/b/y.py" in reader.scan().manifest
        (tmp_path / "a" / "b" / "y.py").write_text("in a folder that was new")
        assert reader.scan().manifest["a/b/y.py"][-1] == len("in a folder that was new")
    finally:
        reader.close()
    assert reader.scan().manifest == reader.scan().manifest
