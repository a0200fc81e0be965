"""From a sandbox of the local server to the machine: every attempt that is made here must fail.

An attempt opens for writing and writes nothing: where it succeeds, nothing is changed.
"""

from __future__ import annotations

import os
import stat
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import modal
import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from skyrl_magic.loopback.runtime import shown_etc
from tests.conftest import make_client
from tests.hostile.accounts import ordinary_server
from tests.loopback.making import SandboxMaker, run

#: Of capabilities(7): what mounts, traces, makes devices, loads modules, sets clocks and changes networks.
FORBIDDEN_CAPABILITIES = {
    *{"net_admin": 12, "sys_module": 16, "sys_rawio": 17, "sys_ptrace": 19, "sys_admin": 21, "sys_boot": 22}.values(),
    *{"sys_time": 25, "mknod": 27, "setfcap": 31, "mac_admin": 33, "syslog": 34, "bpf": 39}.values(),
}


@pytest.fixture(scope="module", params=["this account", "an ordinary user"])
def server(request: pytest.FixtureRequest) -> Iterator[ServerAddress]:
    """A local server of either."""
    if request.param == "this account":
        yield request.getfixturevalue("loopback_server")
        return
    with ordinary_server() as address:
        yield address


@pytest.fixture(scope="module")
def sandbox(server: ServerAddress) -> Iterator[modal.Sandbox]:
    """A sandbox with a volume."""
    client = make_client(server)
    maker = SandboxMaker(client, None)
    name = f"v-{uuid.uuid4().hex[:12]}"
    volume = modal.Volume.from_name(name, create_if_missing=True, version=2, client=client)
    yield maker(volumes={"/root/data": volume})
    maker.close()
    modal.Volume.objects.delete(name, client=client)
    client.close()


def python(sandbox: modal.Sandbox, script: str) -> list[str]:
    """What a Python in the sandbox says in lines."""
    process = sandbox.exec("python3", "-c", script)
    lines = process.stdout.read().splitlines()
    assert process.wait() == 0, process.stderr.read()
    return lines


WRITABLE_KERNEL_FILES = """
import os, stat
found = []
for top in ("/proc", "/sys/kernel", "/sys/module", "/sys/fs", "/sys/power", "/sys/block", "/sys/firmware"):
    for folder, folders, files in os.walk(top):
        if folder == "/proc":
            folders[:] = [name for name in folders if not name.isdecimal() and name not in ("self", "thread-self")]
        for name in files:
            path = os.path.join(folder, name)
            try:
                mode = os.lstat(path).st_mode
                if stat.S_ISREG(mode) and mode & 0o222:  # the others have nothing that takes what is written
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                    found.append(path)
            except OSError:
                pass
print("\\n".join(found))
"""


def test_no_setting_of_the_kernel_can_be_opened_for_writing(sandbox: modal.Sandbox) -> None:
    assert [path for path in python(sandbox, WRITABLE_KERNEL_FILES) if path] == []


def test_what_is_the_machines_is_mounted_read_only(sandbox: modal.Sandbox) -> None:
    mounts = [line.split() for line in run(sandbox, "cat /proc/self/mountinfo")[1].splitlines()]
    writable = {row[4] for row in mounts if "rw" in row[5].split(",")}
    own = {"/", "/proc", "/root/data", "/run/skyrl_loopback", "/run/skyrl_loopback/machine.lock"}
    assert {path for path in writable - own if not path.startswith("/dev")} == set()


def test_a_namespace_of_its_own_gives_nothing_back(sandbox: modal.Sandbox) -> None:
    """Root of a new user namespace may mount: neither a fresh /proc nor a writable /usr."""
    script = """unshare --user --map-root-user --mount --pid --fork sh -c '
        mkdir -p /tmp/p; mount -t proc proc /tmp/p 2>/dev/null && echo fresh
        mount -o remount,bind,rw /usr 2>/dev/null && echo usr
        mount -o remount,bind,rw /proc/sys 2>/dev/null && echo sys
        umount /proc/sys 2>/dev/null && echo uncovered
        echo tried'"""
    assert run(sandbox, script)[1] in ("tried\n", "")  # nothing where the machine allows no such namespace


def test_rights_are_few_and_count_in_its_own_namespace_only(sandbox: modal.Sandbox) -> None:
    script = "grep -h ^Cap /proc/1/status /proc/self/status; readlink /proc/1/ns/user /proc/self/ns/user"
    *rows, first, second = run(sandbox, script)[1].splitlines()
    assert first == second != Path(f"/proc/{os.getpid()}/ns/user").readlink().name
    for row in rows:
        held = int(row.split()[1], 16)
        assert [bit for bit in FORBIDDEN_CAPABILITIES if held >> bit & 1] == []


def test_no_device_can_be_made(sandbox: modal.Sandbox) -> None:
    assert run(sandbox, "mknod /root/device b 254 0; test -e /root/device")[0] != 0


# Holds on to the program of every process that appears and tries later to open it for writing, as a program that runs
# cannot be; and reads what the newcomer may do.
WATCH = """
import errno, os, time
own = int(next(line for line in open("/proc/self/status") if line.startswith("CapPrm")).split()[1], 16)
mine = {name for name in os.listdir("/proc") if name.isdecimal()}
held, more = {}, []
print("watching", flush=True)
end = time.monotonic() + 60
def over():
    return os.path.exists("/tmp/over") or time.monotonic() > end
while not over():
    for name in os.listdir("/proc"):
        if name.isdecimal() and name not in mine:
            try:
                with open(f"/proc/{name}/status") as status:
                    rights = int(next(line for line in status if line.startswith("CapPrm")).split()[1], 16)
                if rights & ~own:
                    more.append(hex(rights))
                program = os.readlink(f"/proc/{name}/exe")
                if program not in held:
                    held[program] = os.open(f"/proc/{name}/exe", os.O_PATH)
            except (OSError, StopIteration):
                pass
time.sleep(0.3)
for program, descriptor in held.items():
    try:
        os.close(os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR))
        print("writable", program)
    except OSError as error:
        if error.errno == errno.ETXTBSY and not os.fstatvfs(descriptor).f_flag & os.ST_RDONLY:
            print("writable when nobody runs it", program)
for rights in sorted(set(more)):
    print("more rights", rights)
print("seen", len(held))
"""


def test_nobody_who_enters_can_be_taken_over(sandbox: modal.Sandbox) -> None:
    watching = sandbox.exec("python3", "-c", WATCH)
    lines = iter(watching.stdout)
    assert next(lines) == "watching\n"
    for _ in range(40):
        assert run(sandbox, "exit 0")[0] == 0
    run(sandbox, "touch /tmp/over")
    *breaches, seen = "".join(lines).splitlines()
    assert breaches == []
    assert int(seen.split()[1]) > 0
    run(sandbox, "rm /tmp/over")


OPEN_FILES = """
import os, stat
for process in ("1", "self"):
    for name in os.listdir(f"/proc/{process}/fd"):
        path = f"/proc/{process}/fd/{name}"
        if os.path.lexists(path) and os.readlink(path) not in ("/dev/null", "/proc/1/fd"):
            if not os.path.exists(path) or not stat.S_ISFIFO(os.stat(path).st_mode):
                print(path, os.readlink(path))
"""


def test_nothing_of_the_machine_is_left_open(sandbox: modal.Sandbox) -> None:
    opened = python(sandbox, OPEN_FILES)
    assert [line for line in opened if not line.startswith("/proc/self/fd/")] == []
    assert opened == []


def test_secrets_of_the_machine_are_not_shown(sandbox: modal.Sandbox) -> None:
    names = []
    for folder, folders, files in os.walk("/etc"):
        names += [Path(folder, name) for name in (*folders, *files)]
    found = [path for path in names if not path.is_symlink() and path.exists()]
    secret = [path for path in found if not path.stat().st_mode & stat.S_IROTH]
    script = f"import os; print([p for p in {[str(path) for path in secret]!r} if os.path.lexists(p)])"
    assert python(sandbox, script) == ["[]"]
    assert run(sandbox, "cat /etc/passwd")[1] == Path("/etc/passwd").read_text("utf-8")


def test_a_secret_that_is_replaced_is_not_shown_either(tmp_path: Path) -> None:
    source, store = tmp_path / "etc", tmp_path / "store"
    (source / "private").mkdir(parents=True)
    (source / "private").chmod(0o710)
    for name, mode in (("shadow", 0o640), ("passwd", 0o644), ("private/key", 0o644)):
        (source / name).write_text(name, "utf-8")
        (source / name).chmod(mode)
    os.mkfifo(source / "pipe", 0o644)
    (source / "link").symlink_to("shadow")
    first = shown_etc.copy(store, source)
    assert sorted(path.name for path in first.rglob("*")) == ["link", "passwd"]
    (source / "new").write_text("secret", "utf-8")
    (source / "new").chmod(0o600)
    (source / "new").rename(source / "shadow")
    assert shown_etc.copy(store, source) == first
    (source / "passwd").write_text("another", "utf-8")
    second = shown_etc.copy(store, source)
    assert second != first
    assert ((first / "passwd").read_text("utf-8"), (second / "passwd").read_text("utf-8")) == ("passwd", "another")


def test_the_notebooks_python_cannot_be_changed(sandbox: modal.Sandbox) -> None:
    script = f"touch {sys.prefix}/file; mount -o remount,bind,rw {sys.prefix} && touch {sys.prefix}/file"
    assert run(sandbox, script)[0] != 0
    assert not Path(sys.prefix, "file").exists()


def test_other_sandboxes_and_the_server_are_not_there(sandbox: modal.Sandbox, server: ServerAddress) -> None:
    assert run(sandbox, f"ls -A {server.state_dir}")[0] != 0
    commands = run(sandbox, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")[1]
    assert "skyrl_magic.loopback" not in commands
