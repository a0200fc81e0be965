"""The tool behind ``Sandbox.filesystem``: Modal's client runs it in the sandbox, one JSON command a call.

It stands in for a binary that Modal's own containers have at :data:`PATH`. The command is the only argument; contents
come and go over stdin and stdout, an error is one JSON object on stderr (``error_kind``, ``message``, ``detail``), with
exit code 1. Standard library only, and nothing of this package: a sandbox sees this file alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import grp
import json
import os
import pwd
import select
import shutil
import stat
import struct
import sys
import time
from pathlib import Path

#: Where the client expects it (modal 1.6.4: ``modal.sandbox._filesystem``).
PATH = "/__modal/.bin/modal-sandbox-fs-tools"
_CHUNK_BYTES = 1024 * 1024
#: Linux's numbers of inotify(7).
_ACCESS, _MODIFY, _ATTRIB, _CLOSE_WRITE, _OPEN = 0x1, 0x2, 0x4, 0x8, 0x20
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE, _DELETE_SELF = 0x40, 0x80, 0x100, 0x200, 0x400
_ALL = _ACCESS | _MODIFY | _ATTRIB | _CLOSE_WRITE | _OPEN | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF
_IS_DIR, _IGNORED = 0x40000000, 0x8000
_KINDS = (
    (_CREATE, "Create"),
    (_DELETE | _DELETE_SELF, "Remove"),
    (_MODIFY | _ATTRIB, "Modify"),
    (_ACCESS | _OPEN | _CLOSE_WRITE, "Access"),
)
_EVENT = struct.Struct("iIII")


class ToolError(Exception):
    """The command cannot be done; the client knows the kind."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def read_file(path: str) -> None:
    """Write the file to stdout."""
    with Path(path).open("rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer, _CHUNK_BYTES)
    sys.stdout.buffer.flush()


def write_file(path: str) -> None:
    """Replace the file by stdin; folders on the way are made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, _CHUNK_BYTES)


def list_files(path: str) -> None:
    """Write what lies in the folder, as JSON."""
    json.dump([_entry(child) for child in sorted(Path(path).iterdir())], sys.stdout)


def stat_path(path: str) -> None:
    """Write what is at the path, as JSON; a symbolic link itself."""
    json.dump(_entry(Path(path)), sys.stdout)


def make_directory(path: str, *, parents: bool) -> None:
    """Make the folder; with ``parents`` those on the way too, and it may be there."""
    try:
        Path(path).mkdir(parents=parents, exist_ok=parents)
    except FileExistsError:
        raise ToolError("PathAlreadyExists", "path already exists") from None


def remove(path: str, *, recursive: bool) -> None:
    """Remove a file, a link or a folder; one that is not empty only with ``recursive``."""
    if not stat.S_ISDIR(Path(path).lstat().st_mode):
        Path(path).unlink()
    elif recursive:
        shutil.rmtree(path)
    else:
        Path(path).rmdir()


def _entry(path: Path) -> dict[str, object]:
    found = path.lstat()
    is_link = stat.S_ISLNK(found.st_mode)
    kind = "symlink" if is_link else "directory" if stat.S_ISDIR(found.st_mode) else "file"
    owner, group = str(found.st_uid), str(found.st_gid)
    with contextlib.suppress(KeyError):
        owner = pwd.getpwuid(found.st_uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(found.st_gid).gr_name
    return {
        "name": path.name,
        "path": str(path),
        "type": kind,
        "size": found.st_size,
        "mode": stat.S_IMODE(found.st_mode),
        "permissions": stat.filemode(found.st_mode)[1:],
        "owner": owner,
        "group": group,
        "modified_time": found.st_mtime,
        "symlink_target": str(path.readlink()) if is_link else None,
    }


class Watch:
    """Changes below a path, told as lines of JSON until stdin ends or the time is over."""

    def __init__(self, path: str, *, recursive: bool, kinds: list[str] | None) -> None:
        self._root = Path(path).resolve(strict=True)
        self._recursive = recursive and self._root.is_dir()
        self._kinds = kinds
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._paths: dict[int, Path] = {}
        self._add(self._root)

    def _add(self, path: Path) -> None:
        number = self._libc.inotify_add_watch(self._inotify, os.fsencode(path), _ALL)
        if number < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
        self._paths[number] = path
        if self._recursive and path.is_dir():
            for child in path.iterdir():
                if child.is_dir() and not child.is_symlink():
                    self._add(child)

    def run(self, timeout_s: float | None) -> None:
        """Tell changes until stdin ends or the time is over."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if deadline_s is None else deadline_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                return
            readable, _, _ = select.select([self._inotify, 0], [], [], left_s)
            if self._inotify in readable:
                self._tell(os.read(self._inotify, 65536))
            if 0 in readable and not os.read(0, 4096):
                return

    def _tell(self, data: bytes) -> None:
        moved: dict[int, Path] = {}
        at = 0
        while at < len(data):
            number, mask, cookie, length = _EVENT.unpack_from(data, at)
            name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
            at += _EVENT.size + length
            folder = self._paths.get(number)
            if mask & _IGNORED or folder is None:
                self._paths.pop(number, None)
                continue
            path = folder / os.fsdecode(name) if name else folder
            if mask & _MOVED_FROM:
                moved[cookie] = path
                continue
            if mask & _MOVED_TO:
                source = moved.pop(cookie, None)
                self._say("RenameTo" if source is None else "Rename", *([] if source is None else [source]), path)
            else:
                self._say(next((kind for bits, kind in _KINDS if mask & bits), "Unknown"), path)
            if mask & _IS_DIR and mask & (_CREATE | _MOVED_TO) and self._recursive:
                with contextlib.suppress(OSError):  # it is gone already
                    self._add(path)
        for path in moved.values():
            self._say("RenameFrom", path)

    def _say(self, kind: str, *paths: Path) -> None:
        if self._kinds is None or kind in self._kinds:
            sys.stdout.write(json.dumps({"event_type": kind, "paths": [str(path) for path in paths]}) + "\n")
            sys.stdout.flush()


def do(command: dict[str, dict[str, object]]) -> None:
    """Do one command. Raises ToolError or OSError."""
    ((name, fields),) = command.items()
    path = str(fields["path"])
    if name == "ReadFile":
        read_file(path)
    elif name == "WriteFile":
        write_file(path)
    elif name == "ListFiles":
        list_files(path)
    elif name == "Stat":
        stat_path(path)
    elif name == "MakeDirectory":
        make_directory(path, parents=bool(fields["parents"]))
    elif name == "Remove":
        remove(path, recursive=bool(fields["recursive"]))
    elif name == "Watch":
        wanted, timeout = fields["filter"], fields["timeout_secs"]
        kinds = [str(kind) for kind in wanted] if isinstance(wanted, list) else None
        watch = Watch(path, recursive=bool(fields["recursive"]), kinds=kinds)
        watch.run(float(timeout) if isinstance(timeout, (int, float)) else None)
    else:
        raise ToolError("NotSupported", f"{name} is not known to skyrl_magic.loopback")


#: How the client names what can go wrong.
_ERRORS = {
    errno.ENOENT: "NotFound",
    errno.ENOTDIR: "NotDirectory",
    errno.EISDIR: "IsDirectory",
    errno.EEXIST: "AlreadyExists",
    errno.ENOTEMPTY: "DirectoryNotEmpty",
    errno.EACCES: "PermissionDenied",
    errno.EPERM: "PermissionDenied",
    errno.EROFS: "PermissionDenied",
}


def main() -> int:
    """Do the command that is the argument; return the exit code."""
    try:
        do(json.loads(sys.argv[1]))
    except BrokenPipeError:
        return 1
    except (ToolError, OSError) as error:
        kind = error.kind if isinstance(error, ToolError) else _ERRORS.get(error.errno or 0, "Other")
        message = str(error) if isinstance(error, ToolError) else error.strerror or str(error)
        sys.stderr.write(json.dumps({"error_kind": kind, "message": message, "detail": str(error)}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
