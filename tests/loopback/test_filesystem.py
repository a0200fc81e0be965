"""``Sandbox.filesystem`` through Modal's own client, on both families of calls."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import modal
import pytest
from modal import exception
from modal.types import FileType, FileWatchEventType

from tests.loopback.making import DEADLINE_S, run, until


def test_bytes_and_text_there_and_back(sandbox: modal.Sandbox, tmp_path: Path) -> None:
    files = sandbox.filesystem
    data = bytes(range(256)) * 5000
    files.write_bytes(data, "/srv/a/b/data.bin")
    assert files.read_bytes("/srv/a/b/data.bin") == data
    files.write_text("zwei ä\n", "/srv/a/text")
    assert files.read_text("/srv/a/text") == "zwei ä\n"
    assert run(sandbox, "cat /srv/a/text")[1] == "zwei ä\n"
    local = tmp_path / "local"
    files.copy_to_local("/srv/a/b/data.bin", local)
    assert local.read_bytes() == data
    files.copy_from_local(local, "/srv/a/copy")
    assert files.stat("/srv/a/copy").size == len(data)


def test_what_lies_in_a_folder(sandbox: modal.Sandbox) -> None:
    run(sandbox, "mkdir -p /srv/list/d; cd /srv/list; printf abc >f; chmod 640 f; ln -s f l")
    found = {info.name: info for info in sandbox.filesystem.list_files("/srv/list")}
    assert {name: info.type for name, info in found.items()} == {
        "d": FileType.DIRECTORY,
        "f": FileType.FILE,
        "l": FileType.SYMLINK,
    }
    file = found["f"]
    assert (file.path, file.size, file.mode, file.permissions) == ("/srv/list/f", 3, 0o640, "rw-r-----")
    assert (file.owner, file.group, file.symlink_target) == ("root", "root", None)
    assert found["l"].symlink_target == "f"
    assert sandbox.filesystem.stat("/srv/list/l").is_symlink()


def test_folders_are_made_and_removed(sandbox: modal.Sandbox) -> None:
    files = sandbox.filesystem
    files.make_directory("/srv/m/a/b")
    files.make_directory("/srv/m/a/b")  # again
    files.make_directory("/srv/m/c", create_parents=False)
    files.write_text("x", "/srv/m/a/b/x")
    files.remove("/srv/m/c")
    files.remove("/srv/m/a", recursive=True)
    assert files.list_files("/srv/m") == []


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda f: f.read_text("/srv/none"), exception.SandboxFilesystemNotFoundError),
        (lambda f: f.read_bytes("/srv/e/d"), exception.SandboxFilesystemIsADirectoryError),
        (lambda f: f.write_text("x", "/srv/e/d"), exception.SandboxFilesystemIsADirectoryError),
        (lambda f: f.write_text("x", "/srv/e/f/x"), exception.SandboxFilesystemNotADirectoryError),
        (lambda f: f.write_text("x", "/usr/x"), exception.SandboxFilesystemPermissionError),
        (lambda f: f.list_files("/srv/none"), exception.SandboxFilesystemNotFoundError),
        (lambda f: f.list_files("/srv/e/f"), exception.SandboxFilesystemNotADirectoryError),
        (lambda f: f.stat("/srv/none"), exception.SandboxFilesystemNotFoundError),
        (lambda f: f.stat("/srv/e/f/x"), exception.SandboxFilesystemNotADirectoryError),
        (lambda f: f.make_directory("/srv/e/f"), exception.SandboxFilesystemPathAlreadyExistsError),
        (lambda f: f.make_directory("/srv/e/f/x"), exception.SandboxFilesystemNotADirectoryError),
        (
            lambda f: f.make_directory("/srv/e/d", create_parents=False),
            exception.SandboxFilesystemPathAlreadyExistsError,
        ),
        (lambda f: f.make_directory("/srv/none/x", create_parents=False), exception.SandboxFilesystemNotFoundError),
        (lambda f: f.remove("/srv/none"), exception.SandboxFilesystemNotFoundError),
        (lambda f: f.remove("/srv/e/d"), exception.SandboxFilesystemDirectoryNotEmptyError),
        (lambda f: list(f.watch("/srv/none")), exception.SandboxFilesystemNotFoundError),
        (lambda f: f.read_text("relative"), exception.InvalidError),
    ],
)
def test_what_goes_wrong(sandbox: modal.Sandbox, call: Callable[[Any], Any], error: type[Exception]) -> None:
    run(sandbox, "mkdir -p /srv/e/d; touch /srv/e/f /srv/e/d/inside")
    with pytest.raises(error):
        call(sandbox.filesystem)


def test_changes_are_watched(sandbox: modal.Sandbox) -> None:
    run(sandbox, "rm -rf /srv/w; mkdir -p /srv/w/deep")
    kinds = [FileWatchEventType.Create, FileWatchEventType.Modify, FileWatchEventType.Remove]
    seen: list[tuple[str, tuple[str, ...]]] = []

    def watch() -> None:
        for event in sandbox.filesystem.watch("/srv/w", filter=kinds, recursive=True):
            seen.append((event.type.value, tuple(event.paths)))
            if event.paths == ["/srv/w/last"]:
                return

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        # Touched until it is seen: nobody says when a watch has begun.
        until(lambda: run(sandbox, "touch /srv/w/ready")[0] == 0 and seen)
        run(sandbox, "cd /srv/w; echo x >deep/new; mv deep/new deep/renamed; mkdir more; rm deep/renamed")
        until(lambda: ("Create", ("/srv/w/more",)) in seen)
        run(sandbox, "touch /srv/w/last")
        watching.result(DEADLINE_S)
    assert ("Create", ("/srv/w/deep/new",)) in seen
    assert ("Modify", ("/srv/w/deep/new",)) in seen
    assert ("Modify", ("/srv/w/deep/new", "/srv/w/deep/renamed")) in seen
    assert ("Remove", ("/srv/w/deep/renamed",)) in seen


def test_a_watch_ends_with_its_time(sandbox: modal.Sandbox) -> None:
    run(sandbox, "touch /srv/quiet")
    assert list(sandbox.filesystem.watch("/srv/quiet", timeout=1)) == []


def test_an_image_without_python_has_it(sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("env", "-i", "/__modal/.bin/modal-sandbox-fs-tools", '{"Stat": {"path": "/"}}')
    assert '"type": "directory"' in process.stdout.read()
    assert process.wait() == 0
