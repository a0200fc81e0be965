"""The unmodified ``modal`` command against the server."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import subprocess
import sys
import uuid
from pathlib import Path

import modal
import pytest
from modal_proto import api_pb2

from skyrl_magic.loopback.daemon import ServerAddress
from tests.loopback.making import SandboxMaker
from tests.loopback.modal_internals import inner, on_modal_loop


class Command:
    """``modal`` with the variables that the server's own command prints, and no other configuration."""

    def __init__(self, address: ServerAddress, home: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
        config = {"MODAL_CONFIG_PATH": str(home / "modal.toml"), "HOME": str(home), "COLUMNS": "200"}
        self._env = {**kept, **config, **address.environment()}
        self._home = home

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "modal", *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            env=self._env,
            cwd=self._home,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "modal", *arguments]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=self._env, cwd=self._home)

    def in_terminal(self, keys: str, *arguments: str) -> str:
        """Run it in a terminal, type ``keys`` at the prompt, and return what the terminal has shown at the end."""
        main, side = pty.openpty()
        words = [sys.executable, "-m", "modal", *arguments]
        process = subprocess.Popen(
            words, stdin=side, stdout=side, stderr=side, env=self._env, cwd=self._home, start_new_session=True
        )
        os.close(side)
        shown, typed = b"", not keys
        with process, contextlib.suppress(OSError):  # EIO: nobody has the terminal any more
            while select.select([main], [], [], 60)[0] and (data := os.read(main, 65536)):
                shown += data
                if not typed and shown.endswith(b"# "):
                    typed = bool(os.write(main, keys.encode()))
            process.kill()
        os.close(main)
        assert process.returncode == 0, shown
        return shown.decode()

    def __call__(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def unique(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def command(loopback_server: ServerAddress, tmp_path: Path) -> Command:
    """The command in an empty home."""
    return Command(loopback_server, tmp_path)


@pytest.fixture
def talker(create: SandboxMaker) -> modal.Sandbox:
    """A sandbox that has said something on both streams, and waits."""
    sandbox = create("bash", "-c", "echo one; sleep 0.3; echo two >&2; sleep 0.3; echo three; exec sleep infinity")
    lines = iter(sandbox.stdout)
    assert [next(lines), next(lines)] == ["one\n", "three\n"]
    return sandbox


# Each command takes a second or more to start: what the client's library shows already is not repeated here.
@pytest.mark.parametrize("version", ["1", "2"])
def test_volume_commands(command: Command, tmp_path: Path, version: str) -> None:
    name = unique("c")
    command("volume", "create", "--version", version, name)
    (tmp_path / "up/sub").mkdir(parents=True)
    (tmp_path / "up/one.txt").write_text("one")
    big = os.urandom(9 * 1024 * 1024)
    (tmp_path / "up/sub/big.bin").write_bytes(big)
    command("volume", "put", name, "up", "/data")
    command("volume", "cp", name, "data/one.txt", "copy.txt")
    (tmp_path / "down").mkdir()
    command("volume", "get", name, "data", "down")
    assert (tmp_path / "down/data/sub/big.bin").read_bytes() == big
    assert (tmp_path / "down/data/one.txt").read_text() == "one"
    command("volume", "rm", "--recursive", name, "data")
    assert [row["filename"] for row in json.loads(command("volume", "ls", name, "--json"))] == ["copy.txt"]


def test_volume_names(command: Command, modal_client: modal.Client) -> None:
    old, new = unique("old"), unique("new")
    modal.Volume.objects.create(old, client=modal_client)
    assert old in [row["name"] for row in json.loads(command("volume", "list", "--json"))]
    command("volume", "rename", "--yes", old, new)
    modal.Volume.from_name(new, client=modal_client).hydrate()
    command("volume", "delete", "--yes", new)
    assert not {old, new} & {volume.name for volume in modal.Volume.objects.list(client=modal_client)}


def test_secret_commands(command: Command, modal_client: modal.Client) -> None:
    name = unique("s")
    command("secret", "create", name, "KEY=value-of-the-secret", "OTHER=2")
    listed = command("secret", "list", "--json")
    assert name in [row["name"] for row in json.loads(listed)]
    assert "value-of-the-secret" not in listed
    command("secret", "delete", "--yes", name)
    assert name not in [secret.name for secret in modal.Secret.objects.list(client=modal_client)]


def test_environment_commands(command: Command, modal_client: modal.Client) -> None:
    name, volume = unique("env"), unique("v")
    command("environment", "create", name)
    assert {"main", name} <= {row["name"] for row in json.loads(command("environment", "list", "--json"))}
    modal.Volume.objects.create(volume, environment_name=name, client=modal_client)
    renamed = f"{name}-b"
    command("environment", "update", name, "--set-name", renamed)
    modal.Volume.from_name(volume, environment_name=renamed, client=modal_client).hydrate()
    command("environment", "delete", "--yes", renamed)
    assert not {name, renamed} & {found.name for found in modal.Environment.objects.list(client=modal_client)}


@pytest.mark.parametrize("create", ["L4"], ids=["V1"], indirect=True)
def test_app_commands(command: Command, create: SandboxMaker, talker: modal.Sandbox) -> None:
    rows = json.loads(command("app", "list", "--json"))
    (row,) = (row for row in rows if row["app_id"] == create.app.app_id)
    assert (row["description"], row["state"], row["tasks"]) == (create.app_name, "deployed", "1")
    assert command("app", "logs", create.app_name) == "one\ntwo\nthree\n"
    command("app", "stop", "--yes", create.app_name)
    talker.wait(raise_on_termination=False)
    assert command("app", "logs", create.app_name, "--source", "stderr") == "two\n"


@pytest.mark.parametrize("create", [None], ids=["V2"], indirect=True)
def test_app_logs_are_followed_to_the_apps_end(command: Command, create: SandboxMaker, talker: modal.Sandbox) -> None:
    with command.start("app", "logs", "--follow", create.app_name) as process:
        assert process.stdout is not None
        first = {process.stdout.readline() for _ in range(3)}
        assert first == {"one\n", "two\n", "three\n"}
        later = create("echo", "later")
        assert process.stdout.readline() == "later\n"
        later.wait()
        modal_app_stop(create)
        assert process.wait(60) == 0
    talker.wait(raise_on_termination=False)


def modal_app_stop(maker: SandboxMaker) -> None:
    stop = inner(maker.client)._stub.AppStop(api_pb2.AppStopRequest(app_id=str(maker.app.app_id)))
    on_modal_loop(stop)


def test_container_commands(command: Command, create: SandboxMaker, talker: modal.Sandbox) -> None:
    task = talker._get_task_id()
    # Into a file: the command ends with the process, and does not wait for what its own printing has left to do.
    command("container", "exec", task, "--", "sh", "-c", 'printf "%s" "$1" >/tmp/said', "sh", "a  b")
    assert talker.filesystem.read_text("/tmp/said") == "a  b"  # noqa: S108  (the sandbox's own)
    if create.gpu is None:
        assert command("container", "logs", "--all", talker.object_id) == "one\ntwo\nthree\n"
    else:
        rows = json.loads(command("container", "list", "--json"))
        assert [row["app_id"] for row in rows if row["container_id"] == task] == [create.app.app_id]
        assert command("container", "logs", "--tail", "2", task) == "two\nthree\n"
    command("container", "stop", "--yes", task)
    assert talker.poll() == 137


def test_shell_in_a_sandbox(command: Command, talker: modal.Sandbox) -> None:
    assert command("shell", "--no-pty", "--cmd", "cat /proc/1/comm", talker.object_id) == "sleep\n"
    output = command.in_terminal("echo is $((6 * 7)); tty; exit\n", "shell", talker.object_id)
    assert "is 42" in output
    assert "/dev/pts/" in output


def test_shell_in_a_container_of_its_own(command: Command, create: SandboxMaker) -> None:
    options = [] if create.gpu is None else ["--gpu", create.gpu]
    script = "echo $0 $((6 * 7)); exec python -c 'import modal; print(modal.__name__)'"
    assert command("shell", "--no-pty", *options, "--cmd", script) == "/bin/bash 42\nmodal\n"
    if create.gpu is None:
        assert "/dev/pts/" in command.in_terminal("", "shell", "-c", "tty")


def test_a_wrong_token_is_refused(loopback_server: ServerAddress, command: Command) -> None:
    command._env["MODAL_TOKEN_SECRET"] = "as-wrong"  # noqa: S105 - and wrong
    done = command.run("volume", "list")
    assert done.returncode != 0
    assert "token" in done.stdout + done.stderr
    assert loopback_server.token_secret not in done.stdout + done.stderr
