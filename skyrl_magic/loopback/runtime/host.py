"""What of this machine a sandbox sees, and which programs make sandboxes here."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import os
import pwd
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from skyrl_magic.loopback.runtime import cgroup, kernel_files, programs

#: Directories of the system that every sandbox sees, read-only.
SYSTEM_DIRS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/sys", "/nix")
#: Devices of a GPU, where the machine has one; the last is WSL2's.
GPU_DEVICES = ("nvidia*", "dri", "dxg")
#: Joins the control groups whose files come first, and becomes the command behind the ``--``.
_JOIN_GROUPS = 'while [ "$1" != -- ]; do echo 0 >"$1"; shift; done 2>/dev/null; shift; exec "$@"'
#: ``MFD_EXEC`` of memfd_create(2), which Python does not name.
_MFD_EXEC = 0x10
#: Variables of the machine's network that programs in a sandbox need just as those outside do.
NETWORK_VARIABLES = (
    *("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"),
    *("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"),
)
#: The programs by which an exec gets into its sandbox, one after the other.
_ENTERING = ("nsenter", "setpriv")
#: What root in a sandbox may do, within the sandbox's user namespace: Docker's default set without device nodes and
#: capabilities of files. Nothing that mounts, traces what is entering, or sets up the network.
CAPABILITIES = (
    *("chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap"),
    *("net_bind_service", "net_raw", "sys_chroot", "audit_write"),
)


class HostError(Exception):
    """This machine cannot run sandboxes; ``str()`` says in one line what to do."""


def require_programs() -> None:
    """Check that sandboxes can be made here.

    Raises:
        HostError: A program is missing; the message names its package.
    """
    if sys.platform != "linux":
        raise HostError("the local backend needs Linux: use WSL2 or a Linux machine, or --backend modal")
    for program in ("bwrap", *_ENTERING):
        if programs.find(program) is None:
            package = "bubblewrap" if program == "bwrap" else "util-linux"
            raise HostError(f"the local backend needs {program}: sudo apt-get install {package}")


def network_problem() -> str:
    """Why sandboxes have no outbound network here, or an empty string."""
    if programs.find("slirp4netns") is None:
        return "slirp4netns is not installed (sudo apt-get install slirp4netns)"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun cannot be opened"
    return ""


def machine_lock() -> Path:
    """A file that all sandboxes of this user share, to take turns at what this machine cannot do twice at once.

    It lies in a folder where no other user can make or hold one, and not below TMPDIR or HOME where that can be helped:
    the turns are the machine's, whatever a process has there.

    Raises:
        HostError: There is no such folder.
    """
    for folder in _lock_folders():
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022:
                path = folder / "machine.lock"
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
                return path
    raise HostError("no folder for the local sandboxes' lock can be made: make your home folder writable")


def _lock_folders() -> Iterator[Path]:
    uid = os.geteuid()
    if uid == 0:
        yield Path("/run/skyrl_loopback")
    yield Path(f"/run/user/{uid}/skyrl_loopback")
    with contextlib.suppress(KeyError):  # a user whom no list has
        yield Path(pwd.getpwuid(uid).pw_dir, ".cache", "skyrl_magic")
    yield Path(tempfile.gettempdir(), f"skyrl_loopback-{uid}")


def outermost(prefixes: Sequence[Path]) -> list[Path]:
    """The folders that must be shown for these to be seen, under both their names; none lies inside another."""
    names = set(prefixes)
    found: list[Path] = []
    for prefix in sorted(names | {name.resolve() for name in names}):
        if not any(prefix.is_relative_to(folder) for folder in [*found, *map(Path, SYSTEM_DIRS)]):
            found.append(prefix)
    return found


def system_env() -> dict[str, str]:
    """The environment that every sandbox starts from, before its image and its secrets."""
    env = {name: os.environ[name] for name in NETWORK_VARIABLES if name in os.environ}
    return {**env, "HOME": "/root", "LANG": "C.UTF-8", "PATH": programs.SYSTEM_PATH}


def binds(prefixes: Sequence[Path], etc: Path) -> list[str]:
    """Bubblewrap's arguments for the parts of the machine that a sandbox sees, in the order they are mounted.

    Args:
        prefixes: Folders of the sandbox's Python.
        etc: What stands for the machine's ``/etc``.
    """
    arguments: list[str] = []
    for name in SYSTEM_DIRS:
        folder = Path(name)
        if name == "/etc":
            arguments += ["--ro-bind", str(etc), name]
        elif folder.is_symlink():
            arguments += ["--symlink", str(folder.readlink()), name]
        elif folder.is_dir():
            arguments += ["--ro-bind", name, name]
    arguments += ["--proc", "/proc", "--dev", "/dev", *kernel_files.options()]
    for pattern in GPU_DEVICES:
        for device in sorted(Path("/dev").glob(pattern)):
            arguments += ["--dev-bind", str(device), str(device)]
    for prefix in outermost(prefixes):
        arguments += ["--ro-bind", str(prefix), str(prefix)]
    return arguments


def namespace_arguments() -> list[str]:
    """Bubblewrap's arguments for the namespaces and the rights in them.

    A user namespace, also for root: a right in it is none over the machine. Root's ids are those of the machine there
    (``container`` writes the maps), so that it sees and owns the same files; anybody else is root there and nobody
    else. ``--as-pid-1``: else bubblewrap's own reaper outlives the main process, and with it everything else. Never
    ``--die-with-parent``: a sandbox outlives whoever started it.
    """
    arguments = ["--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    arguments += ["--as-pid-1", "--new-session", "--cap-drop", "ALL"]
    for name in CAPABILITIES:
        arguments += ["--cap-add", f"CAP_{name.upper()}"]
    return arguments if os.geteuid() == 0 else [*arguments, "--uid", "0", "--gid", "0"]


@dataclasses.dataclass(frozen=True)
class EnterCommand:
    """How to get into a sandbox."""

    program: str
    """The file to run in place of the first word."""
    words: list[str]
    """What stands in front of the command that is to run inside."""


def enter_command(child_pid: int) -> EnterCommand:
    """What runs a command in the sandbox whose first process is ``child_pid``.

    Nobody in there ever sees a process that can do more than itself, or a program of the machine that could be opened
    for writing by ``/proc/PID/exe``: ``nsenter`` runs from a sealed copy, enters without a fork, so that its own
    process stays out of the sandbox's process namespace, and becomes ``setpriv``, which gives up all rights but the
    sandbox's. The command that follows stays outside as well; its children are inside.
    """
    nsenter, setpriv = (str(Path(programs.find(name) or name).resolve()) for name in _ENTERING)
    words = [nsenter, "--target", str(child_pid), "--user", "--mount", "--uts", "--ipc", "--net", "--pid", "--no-fork"]
    if os.geteuid() != 0:
        words.append("--preserve-credentials")  # its groups cannot be changed
    allowed = ",".join(f"+{name}" for name in CAPABILITIES)
    # The sandbox sees it by its real name only: a folder on PATH may be hidden in there.
    words += ["--", setpriv, f"--bounding-set=-all,{allowed}", "--inh-caps=-all", "--"]
    program = f"/proc/{os.getpid()}/fd/{_sealed(nsenter)}"
    if groups := cgroup.of(child_pid):
        return EnterCommand("/bin/sh", ["/bin/sh", "-c", _JOIN_GROUPS, "sh", *groups, "--", program, *words[1:]])
    return EnterCommand(program, words)


@functools.cache
def _sealed(program: str) -> int:
    """A descriptor of a copy of the program in memory that nobody can change any more."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        descriptor = os.memfd_create("program", flags | _MFD_EXEC)
    except OSError:  # before Linux 6.3, where every such file can be run
        descriptor = os.memfd_create("program", flags)
    with open(descriptor, "wb", closefd=False) as copy:
        copy.write(Path(program).read_bytes())
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def resolv_conf_target() -> Path:
    """Where the container must find its resolver's configuration: the machine's may be a symlink."""
    return Path(os.path.realpath("/etc/resolv.conf"))
