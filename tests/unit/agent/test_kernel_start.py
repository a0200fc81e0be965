"""Before a Python kernel: which interpreter, by which command, beside which Ray, and where ipykernel comes from."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from skyrl_magic.agent import kernel_start

Program = Callable[[str, str], Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Makes programs; those in ``bin`` are all that PATH has."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def make(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    return make


# --- which interpreter ------------------------------------------------------------------------------------------------


def test_the_interpreter_is_the_one_that_runs_ray(program: Program) -> None:
    program("bin/python", "#!/bin/sh\n")
    python = program("ray-env/bin/python3.11", "#!/bin/sh\n")
    program("bin/ray", f"#!{python} -sP\nimport ray\n")
    assert kernel_start.interpreter() == str(python)


@pytest.mark.parametrize(
    "script",
    [
        "#!/bin/sh\n'''exec' \"/a long path/python\" \"$0\" \"$@\"\n' '''\n",  # pip's, where a shebang is too long
        "#!/usr/bin/env python3\n",
        "#!{folder}/gone/bin/python\n",
        "#!/bin/sh it's\n",  # the kernel knows no quotes there
        "\x7fELF",
        "",
        "#!",
    ],
)
def test_else_the_one_beside_ray(program: Program, tmp_path: Path, script: str) -> None:
    beside = program("bin/python", "#!/bin/sh\n")
    program("bin/ray", script.format(folder=tmp_path))
    assert kernel_start.interpreter() == str(beside)


@pytest.mark.parametrize("name", ["python", "python3"])
def test_without_ray_the_one_on_path(program: Program, name: str) -> None:
    python = program(f"bin/{name}", "#!/bin/sh\n")
    assert kernel_start.interpreter() == str(python)


@pytest.mark.usefixtures("program")
def test_without_any_there_is_none() -> None:
    assert kernel_start.interpreter() is None


# --- by which command -------------------------------------------------------------------------------------------------


def test_the_relay_runs_in_the_clusters_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/agent.pyz", "supervise"])
    command = kernel_start.relay_command("/env/bin/python", "", ["--control-fd", "3"])
    assert command == ["/env/bin/python", "/opt/agent.pyz", "relay", "--control-fd", "3"]


def test_with_uv_the_relay_runs_in_the_projects_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/agent.pyz", "supervise"])
    command = kernel_start.relay_command("/env/bin/python", "--extra fsdp --project 'a b'", ["--control-fd", "3"])
    assert shlex.join(command) == (
        "uv run --extra fsdp --project 'a b' --with ipykernel python /opt/agent.pyz relay --control-fd 3 "
        "--cluster-python /env/bin/python"
    )


def test_cells_import_from_the_working_directory_first() -> None:
    checkout = Path("/root/SkyRL")
    paths = kernel_start.package_paths(checkout, checkout / "skyrl-train")
    assert paths == ["/root/SkyRL/skyrl-train", "/root/SkyRL", "/root/SkyRL/skyrl-gym"]
    assert kernel_start.package_paths(checkout, checkout) == ["/root/SkyRL", "/root/SkyRL/skyrl-gym"]


def test_a_command_that_is_not_there_is_said_on_the_relays_channel(tmp_path: Path) -> None:
    # In a process of its own: it forks, as the supervisor does, which has one thread.
    script = """
import os, socket, sys
from pathlib import Path
from skyrl_magic.agent import kernel_start
from skyrl_magic.core import protocol
ours, theirs = socket.socketpair()
folder = Path(sys.argv[1])
pid = kernel_start.fork_relay(["no-such-program", "x"], folder, theirs, folder / "log")
theirs.close()
data = b"".join(iter(lambda: ours.recv(1000), b""))
print(*protocol.FrameDecoder().feed(data), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "RelayFailed(detail='no-such-program: No such file or directory') 127\n"


# --- beside which Ray -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "clusters", "conflict"),
    [
        ("echo 2.44.0", "echo 2.44.0", False),
        ("echo 2.40.0", "echo 2.44.0", True),
        ("echo no ray >&2; exit 1", "echo 2.44.0", False),
        ("echo 2.44.0", "exit 1", False),
        ("exit 1", "exit 1", False),
    ],
)
def test_two_versions_of_ray_are_a_conflict(
    program: Program, monkeypatch: pytest.MonkeyPatch, ours: str, clusters: str, *, conflict: bool
) -> None:
    monkeypatch.setattr(sys, "executable", str(program("project/python", f"#!/bin/sh\n{ours}\n")))
    line = kernel_start.ray_conflict(str(program("cluster/python", f"#!/bin/sh\n{clusters}\n")))
    expected = "the project's environment has Ray 2.40.0 and the session's cluster runs 2.44.0: they cannot be joined"
    assert line == (expected if conflict else "")


# --- where ipykernel comes from ---------------------------------------------------------------------------------------

#: Says how it was called, beside where it was told to install.
INSTALLS = """#!/bin/sh
echo "$0 $*" > {folder}/called
"""


def test_uv_supplies_ipykernel(program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = program("env/python", "#!/bin/sh\nexit 1\n")
    monkeypatch.setattr(sys, "executable", str(python))
    uv = program("bin/uv", INSTALLS.format(folder=tmp_path))
    assert kernel_start.supply("/state/packages") == ""
    called = (tmp_path / "called").read_text()
    assert called == f"{uv} pip install --quiet --python {python} --target /state/packages ipykernel\n"


@pytest.mark.parametrize("uv", ["", "#!/bin/sh\nexit 2\n", "no program at all"])
def test_pip_supplies_it_where_uv_does_not(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uv: str
) -> None:
    if uv:
        program("bin/uv", uv)
    python = program("env/python", INSTALLS.format(folder=tmp_path))
    monkeypatch.setattr(sys, "executable", str(python))
    assert kernel_start.supply("/state/packages") == ""
    called = (tmp_path / "called").read_text()
    assert called == f"{python} -m pip install --quiet --target /state/packages ipykernel\n"


@pytest.mark.parametrize(
    ("pip", "reason"),
    [
        ("echo a warning >&2; echo ' No module named pip ' >&2; echo >&2; exit 1", "No module named pip"),
        ("exit 3", "exit 3"),
        ("printf 'caf\\351 is closed\\n' >&2; exit 1", "caf\N{REPLACEMENT CHARACTER} is closed"),
    ],
)
def test_where_neither_works_one_line_says_why(
    program: Program, monkeypatch: pytest.MonkeyPatch, pip: str, reason: str
) -> None:
    program("bin/uv", "#!/bin/sh\necho uv has no network >&2\nexit 2\n")
    python = program("env/python", f"#!/bin/sh\n{pip}\n")
    monkeypatch.setattr(sys, "executable", str(python))
    assert kernel_start.supply("/p") == f"{python} has no ipykernel, and it cannot be supplied: {reason}"


@pytest.mark.usefixtures("program")
def test_where_there_is_neither_that_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "gone" / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    line = kernel_start.supply("/p")
    assert line == f"{python} has no ipykernel, and it cannot be supplied: there is neither uv nor pip"
