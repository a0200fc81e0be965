"""The zipapp: the same bytes each time, and nothing in it but the standard library and itself."""

from __future__ import annotations

import ast
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from skyrl_magic.agent.build import build_agent
from skyrl_magic.core import protocol
from tests.unit.agent.harness import Session


def test_the_same_sources_make_the_same_bytes(tmp_path: Path) -> None:
    one = build_agent(tmp_path / "a" / "one.pyz")
    two = build_agent(tmp_path / "two.pyz")
    assert one == tmp_path / "a" / "one.pyz"
    assert one.read_bytes() == two.read_bytes()


def test_without_a_place_it_goes_to_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = build_agent()
    assert path.is_relative_to(tmp_path)
    assert build_agent() == path
    assert path.read_bytes() == build_agent(tmp_path / "x.pyz").read_bytes()


def test_it_holds_the_agent_the_protocol_and_the_codec_alone(agent: Path) -> None:
    with zipfile.ZipFile(agent) as archive:
        names = set(archive.namelist())
    assert {"__main__.py", "skyrl_magic/core/protocol/codec.py", "skyrl_magic/agent/supervisor.py"} <= names
    core = {name.removeprefix("skyrl_magic/core/") for name in names if name.startswith("skyrl_magic/core/")}
    assert {name.rpartition("/")[0] for name in core} == {"", "protocol", "variables"}
    assert {name for name in core if "/" not in name} == {"__init__.py"}
    assert "skyrl_magic/core/variables/bundle.py" in names
    assert "skyrl_magic/agent/build.py" not in names


def test_it_imports_the_standard_library_alone(agent: Path) -> None:
    # -S leaves site-packages out, -I the current folder and the user's variables.
    lines = ["import sys", f"sys.path.insert(0, {str(agent)!r})"]
    with zipfile.ZipFile(agent) as archive:
        names = [name for name in archive.namelist() if name.startswith(("skyrl_magic/agent/", "skyrl_magic/core/v"))]
    # Those run in the Python kernel's interpreter, where Jupyter's packages are.
    with_jupyter = ("jupyter", "kernel_end", "kernel_magics", "kernel_main", "relay")
    jupyter = {f"skyrl_magic/agent/{name}.py" for name in with_jupyter}
    assert jupyter <= set(names)
    lines += [f"import {name[:-3].replace('/', '.')}" for name in names if name not in jupyter]
    lines.append("assert '_hashlib' not in sys.modules, 'OpenSSL would stay in the memory of each process'")
    code = "\n".join(lines)
    subprocess.run([sys.executable, "-I", "-S", "-W", "error", "-c", code], check=True, timeout=60)


def test_its_syntax_is_python_3_8(agent: Path) -> None:
    with zipfile.ZipFile(agent) as archive:
        for name in archive.namelist():
            ast.parse(archive.read(name), name, feature_version=(3, 8))


def test_it_calls_no_method_that_is_newer(agent: Path) -> None:
    """Of those that linters and habit put in: a program that is parsed may still fail where it comes to one."""
    newer = {"removeprefix", "removesuffix", "is_relative_to", "with_stem", "hardlink_to", "to_thread", "pairwise"}
    with zipfile.ZipFile(agent) as archive:
        found = [
            f"{name}:{node.lineno}: {node.attr}"
            for name in archive.namelist()
            for node in ast.walk(ast.parse(archive.read(name)))
            if isinstance(node, ast.Attribute) and node.attr in newer
        ]
    assert found == []


@pytest.mark.parametrize("version", ["3.8", "3.13"])
def test_it_runs_on_the_pythons_of_containers(make_session: Callable[..., Session], version: str) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"this machine has no Python {version}")
    session = make_session(python=python)
    channel = session.attach()
    channel.send(protocol.PutFile("f", payload=b"text"))
    change = protocol.pack_json({"set": {"f": ["f", 0o600, "", 4]}, "remove": []})
    channel.ask(protocol.ApplyCheckout(0, 1, change), protocol.CheckoutState)
    assert channel.run("cat f; echo err >&2; kill -TERM $$").signal == signal.SIGTERM
    assert (channel.text(), channel.text(protocol.STDERR)) == (b"text", b"err\n")
    assert channel.journal() == b"text"
    channel.ask(protocol.StopSession(), protocol.Done)
    assert session.wait() == 0


@pytest.mark.parametrize("version", ["3.6", "3.7"])
def test_an_older_python_is_told_in_one_line(agent: Path, version: str) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"this machine has no Python {version}")
    ran = subprocess.run([python, "-IS", str(agent), "supervise"], capture_output=True, text=True, check=False)
    says = f"{protocol.SESSION_ENDS}the python3 of its image is {version}: choose an --image with Python 3.8 or newer"
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", f"skyrl_magic: {says}\n")


def find_python(version: str) -> str | None:
    """An interpreter of this version, from PATH or where the common managers put them."""
    on_path = shutil.which(f"python{version}")
    places = [on_path] if on_path else []
    places += map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for place in places:
        if subprocess.run([place, "-c", ""], capture_output=True, check=False).returncode == 0:
            return place
    return None
