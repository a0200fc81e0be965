"""A sandbox's root: a folder on disk, the files of its mounts, and bubblewrap's arguments that put it together."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from skyrl_magic.loopback.runtime import fstool, host, syncwrapper
from skyrl_magic.loopback.runtime.spec import (
    CONTROL_DIR,
    GO_NAME,
    MACHINE_LOCK,
    READY,
    REQUESTS_NAME,
    Folder,
    VolumeMount,
)

#: slirp4netns's resolver, the only one that a sandbox reaches.
RESOLV_CONF = "nameserver 10.0.2.3\n"
#: Folders of the container's own; everything in them is gone when it ends.
OWN_DIRS = ("root", "home", "opt", "mnt", "srv", "run/lock", "var/lib", "var/log", "var/cache")
STICKY_DIRS = ("tmp", "var/tmp")
#: In a container that pretends to have no Python: all other programs, and its whole PATH.
BIN_WITHOUT_PYTHON = "/opt/bin"
#: Says that the root is ready, waits for the network, goes to the first word and becomes the command of the others.
MAIN_SCRIPT = (
    f'echo {READY} >{CONTROL_DIR}/{REQUESTS_NAME}; read -r _ <{CONTROL_DIR}/{GO_NAME}; cd -- "$1" && shift && exec "$@"'
)


class RootfsError(Exception):
    """A path that was asked for cannot be given; ``str()`` says which and why."""


def inside(rootfs: Path, path: str) -> Path:
    """Where the container's absolute ``path`` lies in its root folder.

    Raises:
        RootfsError: The path is not absolute, or belongs to the machine and cannot be written.
    """
    pure = PurePosixPath(path)
    if not pure.is_absolute() or ".." in pure.parts:
        raise RootfsError(f"{path!r} is not an absolute path")
    if any(pure.is_relative_to(folder) for folder in (*host.SYSTEM_DIRS, "/proc", "/dev", CONTROL_DIR)):
        raise RootfsError(f"{path} cannot be written: the local backend shows this machine's own files there")
    return rootfs / pure.relative_to("/")


def build(folder: Folder, files: Iterable[tuple[str, Path, int]], directories: Iterable[str]) -> None:
    """Make the root folder with ``files`` (path in the container, content, mode) and empty ``directories``.

    Raises:
        RootfsError: A path cannot be given.
        OSError: The disk is full, or a content is missing.
    """
    rootfs = folder.rootfs
    for name in OWN_DIRS:
        (rootfs / name).mkdir(parents=True, exist_ok=True)
    for name in STICKY_DIRS:
        (rootfs / name).mkdir(parents=True, exist_ok=True)
        (rootfs / name).chmod(0o1777)
    (rootfs / "root").chmod(0o700)
    (rootfs / "var/run").symlink_to("../run")
    made: set[Path] = set()
    for path, content, mode in files:
        target = inside(rootfs, path)
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        _copy(content, target, mode)
    for path in directories:
        with contextlib.suppress(RootfsError):  # a directory of the machine is there already, or is reported by cd
            inside(rootfs, path).mkdir(parents=True, exist_ok=True)
    folder.control.mkdir(mode=0o700)


def link_all_but_python(folder: Folder) -> None:
    """Put links to the machine's programs, without its Pythons, where :data:`BIN_WITHOUT_PYTHON` says."""
    bin_dir = inside(folder.rootfs, BIN_WITHOUT_PYTHON)
    bin_dir.mkdir()
    for name in ("/usr/bin", "/usr/sbin"):
        for program in Path(name).iterdir():
            if not program.name.startswith("python") and not (bin_dir / program.name).is_symlink():
                (bin_dir / program.name).symlink_to(program)


def _copy(source: Path, target: Path, mode: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        target.unlink()  # a later mount wins
    with source.open("rb", buffering=0) as reader, target.open("xb", buffering=0) as writer:
        try:
            # In the kernel, and without a copy where the file system can share extents.
            while os.copy_file_range(reader.fileno(), writer.fileno(), 1 << 30):
                pass
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            shutil.copyfileobj(reader, writer)
        os.fchmod(writer.fileno(), mode)


def command(workdir: str, arguments: Sequence[str]) -> list[str]:
    """What bubblewrap runs."""
    return ["/bin/sh", "-c", MAIN_SCRIPT, "sh", workdir, *arguments]


def options(
    folder: Folder, env: dict[str, str], volumes: Sequence[VolumeMount], prefixes: Sequence[Path], etc: Path
) -> list[str]:
    """Bubblewrap's options for a root that :func:`build` made.

    Args:
        folder: the sandbox's.
        env: the environment of every process.
        volumes: what is mounted, and where.
        prefixes: the folders of its Python.
        etc: what stands for the machine's ``/etc``.
    """
    words = [*host.namespace_arguments(), "--bind", str(folder.rootfs), "/", *host.binds(prefixes, etc)]
    words += _resolver(folder)
    words += ["--bind", str(folder.control), CONTROL_DIR]
    words += ["--bind", str(host.machine_lock()), MACHINE_LOCK]
    for index, volume in enumerate(volumes):
        source = folder.live(index) / volume.sub_path.strip("/")
        words += ["--ro-bind" if volume.read_only else "--bind", str(source), volume.mount_path]
    synced = [volume.mount_path for volume in volumes if not volume.is_v1 and not volume.read_only]
    words += syncwrapper.install(folder.control, synced)
    words += _filesystem_tool(folder, prefixes[0])
    words += ["--clearenv"]
    for name, value in env.items():
        words += ["--setenv", name, value]
    return [*words, "--chdir", "/"]


def _filesystem_tool(folder: Folder, prefix: Path) -> list[str]:
    """Put the tool behind ``Sandbox.filesystem`` where Modal's client looks for it; ``prefix`` is a Python's."""
    # A script and not its own first line: that may have 127 bytes only, and a prefix may be longer.
    script = folder.control / "fs-tool"
    code = f"{CONTROL_DIR}/fs-tool.py"
    python = shlex.quote(str(prefix / "bin" / "python3"))
    script.write_text(f'#!/bin/sh\nexec {python} -ISE {code} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return ["--ro-bind", fstool.__file__, code, "--ro-bind", str(script), fstool.PATH]


def _resolver(folder: Folder) -> list[str]:
    target = host.resolv_conf_target()
    if target.is_relative_to("/etc"):
        source = folder.path / "resolv.conf"
        source.write_text(RESOLV_CONF, encoding="ascii")
        return ["--ro-bind", str(source), str(target)] if target.exists() else []
    with contextlib.suppress(RootfsError):
        source = inside(folder.rootfs, str(target))
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(RESOLV_CONF, encoding="ascii")
    return []
