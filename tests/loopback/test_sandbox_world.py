"""What a process in a sandbox finds: files, environment, volumes, network, and nothing of others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import modal
import pytest
from modal.exception import ConflictError, InvalidError

from skyrl_magic.loopback.daemon import ServerAddress
from skyrl_magic.loopback.runtime.spec import PREFIXES_VARIABLE
from tests.loopback.making import SandboxMaker, run, until


@pytest.fixture
def volume(modal_client: modal.Client) -> Iterator[modal.Volume]:
    """A new v2 volume."""
    name = f"v-{uuid.uuid4().hex[:12]}"
    yield modal.Volume.from_name(name, create_if_missing=True, version=2, client=modal_client)
    modal.Volume.objects.delete(name, client=modal_client)


def read(volume: modal.Volume, path: str) -> bytes | None:
    """What is committed at ``path``."""
    try:
        return b"".join(volume.read_file(path))
    except FileNotFoundError:
        return None


def test_environment_and_workdir(create: SandboxMaker) -> None:
    secret = modal.Secret.from_dict({"FROM_SECRET": "s", "BOTH": "secret"})
    image = create.image.env({"FROM_IMAGE": "i", "BOTH": "image"}).workdir("/opt/work/dir")
    sandbox = create(image=image, secrets=[secret], env={"FROM_ENV": "e"})
    expected = "/opt/work/dir\ni s e secret\n"
    assert run(sandbox, "pwd; echo $FROM_IMAGE $FROM_SECRET $FROM_ENV $BOTH")[1] == expected


def test_main_process_has_the_same_environment(create: SandboxMaker) -> None:
    odd = "a 'b' \"c\" $d \\e\nnew line"
    sandbox = create("bash", "-c", 'pwd; printf %s "$ODD"', env={"ODD": odd}, workdir="/var/lib/x")
    sandbox.wait()
    assert sandbox.stdout.read() == f"/var/lib/x\n{odd}"


def test_root_of_its_own(create: SandboxMaker) -> None:
    sandbox = create()
    script = "id -u; echo x >/root/file && echo y >/tmp/file && ls -A /home; hostname >/dev/null; cat /root/file"
    assert run(sandbox, script)[:2] == (0, "0\nx\n")
    assert run(create(), "cat /root/file /tmp/file")[0] != 0


def test_the_machine_cannot_be_written(create: SandboxMaker) -> None:
    sandbox = create()
    assert run(sandbox, "touch /usr/file")[0] != 0
    assert run(sandbox, "touch /etc/file")[0] != 0
    assert run(sandbox, f"touch {sys.prefix}/file")[0] != 0
    assert run(sandbox, "mount -o remount,rw /usr")[0] != 0


def test_python_of_the_notebook(create: SandboxMaker) -> None:
    script = "python -c 'import sys, modal; print(sys.prefix, modal.__version__)'"
    assert run(create(), script)[1] == f"{sys.prefix} {modal.__version__}\n"


def test_python_of_another_notebook(create: SandboxMaker, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    script = "python -c 'import sys; print(sys.prefix)'; printenv SKYRL_LOOPBACK_PREFIXES"
    sandbox = create(env={PREFIXES_VARIABLE: f"{venv}{os.pathsep}{sys.base_prefix}"})
    assert run(sandbox, script) == (1, f"{venv}\n", "")
    if not Path(sys.prefix).is_relative_to("/usr") and sys.prefix != sys.base_prefix:
        assert run(sandbox, f"ls {sys.prefix}")[0] != 0  # the server's own is not shown


def test_python_that_is_not_there(create: SandboxMaker) -> None:
    with pytest.raises(InvalidError, match="there is no directory /no/such"):
        create(env={PREFIXES_VARIABLE: "/no/such"})


def test_shared_memory_is_large(create: SandboxMaker) -> None:
    script = "python -c \"import os; s = os.statvfs('/dev/shm'); print(s.f_bavail * s.f_frsize >> 20)\""
    assert int(run(create(), script)[1]) > 512


def test_mounts_are_writable_copies(create: SandboxMaker, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep/er").mkdir(parents=True)
    (tree / "deep/er/run.sh").write_text("#!/bin/sh\necho ran\n", encoding="utf-8")
    (tree / "deep/er/run.sh").chmod(0o755)
    (tree / "data").write_bytes(b"x" * 5_000_000)  # large enough for the blob endpoint
    image = create.image.add_local_dir(tree, "/root/SkyRL")
    first, second = create(image=image), create(image=image)
    assert run(first, "/root/SkyRL/deep/er/run.sh; wc -c </root/SkyRL/data")[1] == "ran\n5000000\n"
    assert run(first, "echo changed >/root/SkyRL/data; cat /root/SkyRL/data")[1] == "changed\n"
    assert run(second, "wc -c </root/SkyRL/data")[1] == "5000000\n"


def test_volume_shows_the_last_commit(create: SandboxMaker, volume: modal.Volume) -> None:
    sandbox = create(volumes={"/root/data": volume})
    assert run(sandbox, "mkdir /root/data/d; echo one >/root/data/d/f")[0] == 0
    assert read(volume, "d/f") is None
    assert run(sandbox, "sync /root/data") == (0, "", "")
    assert read(volume, "d/f") == b"one\n"
    run(sandbox, "echo two >/root/data/d/f")
    assert read(volume, "d/f") == b"one\n"
    assert run(sandbox, "cd /root/data && sync d/f") == (0, "", "")
    assert read(volume, "d/f") == b"two\n"


def test_sync_through_a_symlink(create: SandboxMaker, volume: modal.Volume) -> None:
    sandbox = create(volumes={"/root/data": volume})
    script = "mkdir -p /home/ray && ln -s /root/data /home/ray/data && echo x >/home/ray/data/f && sync /home/ray/data"
    assert run(sandbox, script) == (0, "", "")
    assert read(volume, "f") == b"x\n"


def test_sync_of_other_paths_is_the_machines_own(create: SandboxMaker, volume: modal.Volume) -> None:
    sandbox = create(volumes={"/root/data": volume})
    assert run(sandbox, "echo x >/root/data/f; sync /tmp && sync -f /tmp")[0] == 0
    assert run(sandbox, "sync /nowhere")[0] != 0
    assert read(volume, "f") is None


def test_a_sync_that_is_killed_takes_nothing_along(create: SandboxMaker, volume: modal.Volume) -> None:
    sandbox = create(volumes={"/root/data": volume})
    killed = "for i in 1 2 3 4 5 6 7 8; do sync /root/data & kill -KILL $!; done; wait"
    assert run(sandbox, f"{killed}; echo x >/root/data/f; sync /root/data")[0] == 0
    assert read(volume, "f") == b"x\n"


def test_commits_at_once(create: SandboxMaker, volume: modal.Volume) -> None:
    sandbox = create(volumes={"/root/data": volume})
    script = "for i in 1 2 3 4 5 6; do (echo $i >/root/data/$i; sync /root/data || echo failed) & done; wait"
    assert run(sandbox, script) == (0, "", "")
    assert sorted(entry.path for entry in volume.listdir("/")) == list("123456")


def test_commit_that_fails_says_so(create: SandboxMaker) -> None:
    name = f"v-{uuid.uuid4().hex[:12]}"
    gone = modal.Volume.from_name(name, create_if_missing=True, version=2, client=create.client)
    sandbox = create(volumes={"/root/data": gone})
    modal.Volume.objects.delete(name, client=create.client)
    code, stdout, stderr = run(sandbox, "echo x >/root/data/f; sync /root/data")
    assert (code, stdout) == (1, "")
    assert stderr.startswith("sync: ")
    assert stderr.count("\n") == 1


def test_end_commits(create: SandboxMaker, volume: modal.Volume) -> None:
    sandbox = create("bash", "-c", "echo x >/root/data/exited", volumes={"/root/data": volume})
    sandbox.wait()
    assert read(volume, "exited") == b"x\n"
    sandbox = create(volumes={"/root/data": volume})
    run(sandbox, "echo x >/root/data/terminated")
    sandbox.terminate()
    assert read(volume, "terminated") == b"x\n"


def test_two_sandboxes_share_a_volume(create: SandboxMaker, volume: modal.Volume) -> None:
    first, second = (create(volumes={"/root/data": volume}) for _ in range(2))
    assert run(first, "echo x >/root/data/f; sync /root/data")[0] == 0
    assert run(second, "cat /root/data/f")[0] != 0
    second.reload_volumes()
    assert run(second, "cat /root/data/f")[1] == "x\n"


def test_reload_is_refused_while_files_are_open(create: SandboxMaker, volume: modal.Volume) -> None:
    sandbox = create(volumes={"/root/data": volume})
    process = sandbox.exec("bash", "-c", "exec 3>/root/data/open; echo opened; read -r _")
    assert next(iter(process.stdout)) == "opened\n"
    with pytest.raises(ConflictError, match="/root/data/open"):
        sandbox.reload_volumes()
    process.stdin.write_eof()
    process.stdin.drain()
    process.wait()
    sandbox.reload_volumes()


def test_reload_is_refused_while_a_process_works_on_the_volume(create: SandboxMaker, volume: modal.Volume) -> None:
    sandbox = create(volumes={"/root/data": volume})
    process = sandbox.exec("bash", "-c", "echo there; read -r _", workdir="/root/data")
    assert next(iter(process.stdout)) == "there\n"
    with pytest.raises(ConflictError, match="/root/data"):
        sandbox.reload_volumes()
    process.stdin.write_eof()
    process.stdin.drain()
    process.wait()
    sandbox.reload_volumes()


def test_read_only_volume(create: SandboxMaker, volume: modal.Volume) -> None:
    sandbox = create(volumes={"/root/data": volume.with_mount_options(read_only=True)})
    assert run(sandbox, "touch /root/data/f")[0] != 0


def test_networks_are_apart(create: SandboxMaker) -> None:
    listen = "import socket, time; s = socket.create_server(('127.0.0.1', 6379))\n"
    listen += "print('up', flush=True); time.sleep(600)"
    for sandbox in (create(), create()):
        process = sandbox.exec("python", "-c", listen)
        assert next(iter(process.stdout)) == "up\n"


def test_the_machines_ports_are_out_of_reach(create: SandboxMaker, loopback_server: ServerAddress) -> None:
    port = int(loopback_server.url.rpartition(":")[2])
    script = f"import socket; [socket.create_connection((h, {port}), 5) for h in ('127.0.0.1',)]"
    assert "Refused" in run(create(), f'python -c "{script}"')[2]


def test_blocked_network_has_only_its_loopback(create: SandboxMaker) -> None:
    sandbox = create(block_network=True)
    assert run(sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1")[1].split() == ["lo"]


@pytest.mark.skipif(not shutil.which("slirp4netns") or not Path("/dev/net/tun").exists(), reason="no outbound here")
def test_network_is_there_when_the_command_begins(create: SandboxMaker) -> None:
    sandbox = create("bash", "-c", "cut -d: -f1 /proc/net/dev; cat /etc/resolv.conf")
    sandbox.wait()
    assert {"lo", "tap0", "nameserver"} <= set(sandbox.stdout.read().split())


def test_many_files_are_there_soon(create: SandboxMaker, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for index in range(1000):
        (tree / f"d{index % 40}").mkdir(parents=True, exist_ok=True)
        (tree / f"d{index % 40}/f{index}").write_bytes(os.urandom(100) * 230)
    image = create.image.add_local_dir(tree, "/root/SkyRL")
    create(image=image)
    start_s = time.monotonic()
    sandbox = create(image=image)
    assert time.monotonic() - start_s < 20
    assert run(sandbox, "find /root/SkyRL -type f | wc -l; du -sb /root/SkyRL | cut -f1")[1].split()[0] == "1000"


def test_nothing_is_left_behind(create: SandboxMaker, volume: modal.Volume, loopback_server: ServerAddress) -> None:
    sandbox = create(volumes={"/root/data": volume}, env={"SECRET_WORD": "hush"})
    script = "mkdir -p /root/a/b && touch /root/a/b/c && chmod 0 /root/a/b /root/a; echo x >/root/data/f"
    assert run(sandbox, script)[0] == 0
    folder = loopback_server.state_dir / "sandboxes" / sandbox.object_id
    sandbox.terminate()
    expected = {"exit.json", "keeper.log", "log-index", "meta.json", "resolv.conf", "stderr.log", "stdout.log"}
    until(lambda: {path.name for path in folder.iterdir()} == expected)
    assert not any(b"hush" in path.read_bytes() for path in folder.iterdir())
