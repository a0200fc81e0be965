"""Paths, processes and folders of sandboxes, without a sandbox."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skyrl_magic.loopback.runtime import host, interpreter, processes, programs, rootfs, syncwrapper
from skyrl_magic.loopback.runtime.mounted import remove_tree
from skyrl_magic.loopback.runtime.rootfs import RootfsError
from skyrl_magic.loopback.runtime.spec import PREFIXES_VARIABLE, Folder, KeeperSpec, VolumeMount


@pytest.mark.parametrize(
    "path", ["relative", "/a/../b", "/usr/x", "/etc", "/proc/1", "/dev/x", "/run/skyrl_loopback/x"]
)
def test_paths_that_cannot_be_written(path: str) -> None:
    with pytest.raises(RootfsError):
        rootfs.inside(Path("/rootfs"), path)


@pytest.mark.parametrize("path", ["/root/x", "/usrx", "/var/run/x", "/a//b", "/"])
def test_paths_of_the_container(path: str) -> None:
    assert rootfs.inside(Path("/rootfs"), path).is_relative_to("/rootfs")


def test_later_mount_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"first, and longer")
    second.write_bytes(b"second")
    folder = Folder(tmp_path / "sandbox")
    folder.path.mkdir()
    rootfs.build(folder, [("/root/f", first, 0o644), ("/root/f", second, 0o755)], ["/root/work", "/usr/lib"])
    assert (folder.rootfs / "root/f").read_bytes() == b"second"
    assert (folder.rootfs / "root/f").stat().st_mode & 0o777 == 0o755
    assert (folder.rootfs / "root/work").is_dir()
    assert not (folder.rootfs / "usr").exists()


def test_links_of_the_root_stay_inside(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "sandbox")
    folder.path.mkdir()
    rootfs.build(folder, [], [])
    for path in folder.rootfs.rglob("*"):
        assert path.resolve().is_relative_to(folder.rootfs.resolve())


def test_interpreter_is_bound_once() -> None:
    prefixes = host.outermost(interpreter.prefixes({}))
    bound = [*prefixes, *map(Path, host.SYSTEM_DIRS)]
    for name in (sys.prefix, sys.base_prefix):
        assert any(Path(name).is_relative_to(folder) for folder in bound)
    for prefix in prefixes:
        assert sum(prefix.is_relative_to(folder) for folder in bound) == 1


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("venv", "not an absolute path"),
        ("", "not an absolute path"),
        ("/opt/../usr", "not an absolute path"),
        ("/no/such/venv", "no directory"),
        ("/", "hide"),
        ("/proc/self", "hide"),
        ("/run", "hide"),
        ("/etc", "no folder of a Python"),
        ("/root", "no folder of a Python"),
        ("/var/lib", "no folder of a Python"),
    ],
)
def test_folders_that_are_no_interpreters(name: str, why: str) -> None:
    with pytest.raises(RootfsError, match=why) as failure:
        interpreter.prefixes({PREFIXES_VARIABLE: f"{sys.base_prefix}{os.pathsep}{name}"})
    assert "\n" not in str(failure.value)


def test_folders_of_an_interpreter(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").touch()
    (tmp_path / "lib" / "python3.12").mkdir(parents=True)
    prefixes = interpreter.prefixes({PREFIXES_VARIABLE: f"{tmp_path}{os.pathsep}{sys.base_prefix}"})
    assert prefixes == [tmp_path, Path(sys.base_prefix)]
    assert interpreter.prefixes({}) == [Path(sys.prefix), Path(sys.base_prefix)]


def test_programs_are_found_without_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Path(programs.find("env") or "").is_file()
    (tmp_path / "env").touch(mode=0o755)
    assert programs.find("env") == str(tmp_path / "env")


def test_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "SYSTEM_PATH", str(tmp_path))
    with pytest.raises(host.HostError, match="apt-get install bubblewrap"):
        host.require_programs()
    assert "slirp4netns" in host.network_problem()


def test_process_is_known_by_its_start() -> None:
    process = subprocess.Popen(["sleep", "60"])
    ticks = processes.start_ticks(process.pid)
    assert processes.is_alive(process.pid, ticks)
    assert not processes.is_alive(process.pid, ticks + 1)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.is_alive(process.pid, ticks)  # a zombie
    process.wait()
    assert not processes.is_alive(process.pid, ticks)
    with pytest.raises(ProcessLookupError):
        processes.start_ticks(process.pid)


def test_handlers_are_seen() -> None:
    script = "import signal; signal.signal(15, print); print(flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert processes.handles(process.pid, signal.SIGTERM)
        assert not processes.handles(process.pid, signal.SIGUSR2)
        process.kill()
    assert not processes.handles(process.pid, signal.SIGTERM)


def test_open_files_are_seen(tmp_path: Path) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd=tmp_path) as process:
        assert str(tmp_path) in set(processes.paths_in_use(process.pid))


def test_protected_trees_are_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a/b/c").mkdir(parents=True)
    (tree / "a/b/file").touch()
    (tree / "a/link").symlink_to(tmp_path)
    for path in ("a/b/c", "a/b", "a"):
        (tree / path).chmod(0)
    remove_tree(tree)
    remove_tree(tree)
    assert list(tmp_path.iterdir()) == []


def test_spec_survives_its_journey() -> None:
    volume = VolumeMount("vo-1", "/root/data", "sub", True, version=1)
    spec = KeeperSpec("/state", ["--a"], ["b"], 1.5, True, "", [volume], 2.5)
    assert KeeperSpec.from_json(spec.to_json()) == spec


def test_sync_is_left_alone_without_a_volume(tmp_path: Path) -> None:
    assert syncwrapper.install(tmp_path, []) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mount_path", ["/root/data", "/root/my data", "/root/it's $HOME", "/root/*"])
def test_wrapper_is_sound_shell(tmp_path: Path, mount_path: str) -> None:
    syncwrapper.install(tmp_path, [mount_path])
    assert subprocess.run(["sh", "-n", tmp_path / "sync"], check=False).returncode == 0
