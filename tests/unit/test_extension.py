"""The composition root in a shell of its own, in processes where what is imported or left at exit counts."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from skyrl_magic import extension
from skyrl_magic.core.errors import BackendUnavailable
from skyrl_magic.ui.magics import SkyRLMagic

MAGICS = {
    "skyrl_modal",
    "skyrl_python",
    "skyrl_attach",
    "skyrl_cancel",
    "skyrl_restart",
    "skyrl_runs",
    "skyrl_push",
    "skyrl_pull",
    "skyrl_start",
    "skyrl_sessions",
    "skyrl_stop",
    "skyrl_trust",
    "skyrl_use",
    "skyrl_logs",
    "skyrl_picker",
}


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """A shell with a profile of its own."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", folder)
        found = InteractiveShell()
        yield found
        extension.unload(found)
        assert found.history_manager is not None
        found.history_manager.end_session()


def ours(shell: InteractiveShell) -> dict[str, object]:
    """The magics of ours that the shell has."""
    magics = shell.magics_manager.magics
    return {f"{kind} {name}": f for kind in magics for name, f in magics[kind].items() if name.startswith("skyrl")}


def matchers(shell: InteractiveShell) -> int:
    return len(shell.Completer.custom_matchers)


def test_load_and_unload(shell: InteractiveShell) -> None:
    configurables, before = list(shell.configurables), matchers(shell)
    transformers = list(shell.input_transformers_cleanup)
    extension.load(shell)
    assert {name.split()[1] for name in ours(shell)} == MAGICS
    assert "cell skyrl_modal" in ours(shell)
    assert matchers(shell) == before + 1
    assert any(isinstance(c, SkyRLMagic) for c in shell.configurables)
    extension.unload(shell)
    assert ours(shell) == {}
    assert matchers(shell) == before
    assert shell.input_transformers_cleanup == transformers
    assert shell.configurables == configurables


def test_loading_twice_is_loading_once(shell: InteractiveShell) -> None:
    extension.load(shell)
    first, count, configurables = ours(shell), matchers(shell), list(shell.configurables)
    transformers = list(shell.input_transformers_cleanup)
    extension.load(shell)
    assert shell.input_transformers_cleanup == transformers
    assert ours(shell) == first
    assert (matchers(shell), shell.configurables) == (count, configurables)


def test_reloading_begins_anew(shell: InteractiveShell) -> None:
    extension.load(shell)
    first = shell.skyrl_magic  # type: ignore[attr-defined]
    first.gpu = "T4"
    extension.unload(shell)
    extension.load(shell)
    again = shell.skyrl_magic  # type: ignore[attr-defined]
    assert again is not first
    assert again.gpu is None
    assert ours(shell)["cell skyrl_modal"].__self__ is again  # type: ignore[attr-defined]


def test_unloading_what_was_not_loaded(shell: InteractiveShell) -> None:
    extension.unload(shell)
    assert ours(shell) == {}


def test_ipythons_own_commands(shell: InteractiveShell) -> None:
    shell.run_line_magic("load_ext", "skyrl_magic")
    assert ours(shell)
    shell.run_line_magic("config", "SkyRLMagic.gpu = 'A100:4'")
    shell.run_line_magic("reload_ext", "skyrl_magic")
    assert {name.split()[1] for name in ours(shell)} == MAGICS
    shell.run_line_magic("unload_ext", "skyrl_magic")
    assert ours(shell) == {}


def run(code: str, folder: Path, **variables: str) -> str:
    """What ``code`` prints in a process of its own."""
    env = {**os.environ, "IPYTHONDIR": str(folder / "ipython"), **variables}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=120).stdout


LOADED = (
    "import sys, threading\n"
    "from IPython.core.interactiveshell import InteractiveShell\n"
    "shell = InteractiveShell()\n"
    "before = set(sys.modules)\n"
    "shell.run_line_magic('load_ext', 'skyrl_magic')\n"
)


def test_loading_imports_nothing_heavy(tmp_path: Path) -> None:
    code = LOADED + (
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "heavy = {'modal', 'modal_proto', 'grpclib', 'aiohttp', 'ipywidgets', 'google', 'asyncio'}\n"
        "print(sorted(new & heavy), threading.active_count())\n"
        "shell.history_manager.end_session()\n"
    )
    names, threads = run(code, tmp_path).rsplit(None, 1)
    assert names == "[]"
    assert int(threads) <= 2  # IPython's own


@pytest.mark.parametrize("last", ["", "shell.run_line_magic('unload_ext', 'skyrl_magic')\n"])
def test_it_is_closed_at_exit_and_when_it_is_unloaded(tmp_path: Path, last: str) -> None:
    # What is registered first comes last at exit.
    code = "import atexit\natexit.register(lambda: print(made._cells))\n" + LOADED
    code += f"made = shell.skyrl_magic\nprint(type(made.cells).__name__)\n{last}shell.history_manager.end_session()\n"
    assert run(code, tmp_path) == "Cells\nNone\n"


def test_a_server_that_cannot_start_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SKYRL_MAGIC_LOOPBACK_DIR", str(tmp_path / "file" / "state"))
    with pytest.raises(BackendUnavailable) as error:
        extension._local_backend()
    assert len(str(error.value).splitlines()) == 1


def test_who_waits_for_a_server_that_is_not_there_sees_which_one_and_can_stop(tmp_path: Path) -> None:
    code = (
        "from skyrl_magic import extension\n"
        "class Stopped:\n"
        "    def begin(self, phase, hint=''):\n"
        "        print(phase)\n"
        "        raise KeyboardInterrupt\n"
        "try:\n"
        "    extension.make_services().sessions.reach('modal', Stopped())\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped')\n"
    )
    nowhere = "http://127.0.0.1:9"  # the discard port: nobody listens there
    said = run(code, tmp_path, MODAL_SERVER_URL=nowhere, MODAL_TOKEN_ID="ak-x", MODAL_TOKEN_SECRET="as-x")  # noqa: S106
    assert said == f"waiting for Modal at {nowhere}\nstopped\n"
