"""The product as an ordinary user of the machine has it: cells on the local backend, from a session to its end."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.contract.conftest import make_checkout
from tests.hostile.accounts import ORDINARY_UID, as_ordinary_user, ordinary_env, ordinary_folder

#: What he types. Nothing but the cells' own output goes to stdout.
NOTEBOOK = """
import sys
from IPython.terminal.interactiveshell import TerminalInteractiveShell
shell = TerminalInteractiveShell.instance()

def cell(text):
    shell.run_cell(text, store_history=False).raise_error()

cell("%load_ext skyrl_magic")
cell("%config SkyRLMagic.backend = 'local'")
cell("%config SkyRLMagic.gpu = 'none'")
cell("%config SkyRLMagic.ray = False")
cell("%%skyrl_modal\\necho shell $(id -u) $(cat pyproject.toml | wc -l); echo kept >/root/data/file")
cell("%%skyrl_python\\nimport os\\nprint('python', os.getuid())")
cell("%skyrl_stop")
cell("%%skyrl_modal\\ncat /root/data/file; exit 3")
"""


def test_cells_of_an_ordinary_user() -> None:
    words = as_ordinary_user()
    with ordinary_folder() as home:
        checkout = home / "SkyRL"
        make_checkout(checkout, old_layout=False)
        if words:
            for path in (checkout, *checkout.rglob("*")):
                os.chown(path, ORDINARY_UID, ORDINARY_UID, follow_symlinks=False)
        env = {**ordinary_env(home), "SKYRL_MAGIC_LOOPBACK_DIR": str(home / "state"), "NO_COLOR": "1"}
        try:
            python = [*words, sys.executable, "-c", NOTEBOOK]
            ran = subprocess.run(
                python, cwd=checkout, env=env, capture_output=True, text=True, timeout=240, check=False
            )
        finally:
            stop = [*words, sys.executable, "-m", "skyrl_magic.loopback", "--stop"]
            subprocess.run(stop, cwd=home, env=env, capture_output=True, check=True)
    said = ran.stdout + ran.stderr
    for expected in ("shell 0 ", "python 0\n", "kept\n", "3"):
        assert expected in said, said
    assert "exit" in said
