"""``make live`` on a local server that stands for the account's: the way is the same, and the report says no secret."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import modal
import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tools import live
from tools.run_tests import ROOT


@pytest.mark.serial
def test_the_whole_way(loopback_server: ServerAddress, modal_client: modal.Client, tmp_path: Path) -> None:
    app = modal.App.lookup(live.APP, create_if_missing=True, client=modal_client)
    left = modal.Sandbox.create("sleep", "infinity", app=app, image=modal.Image.from_registry("x"), client=modal_client)
    report = tmp_path / "report.md"
    command = [sys.executable, "-m", "tools.live", "--report", str(report), "-k", "modal and (exit_codes or phases)"]
    env = {**os.environ, **loopback_server.environment()}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=600)
    text = report.read_text("utf-8")
    assert done.returncode == 0, done.stdout + text
    assert "another server than Modal's" in text
    assert "| test_container::test_exit_codes[none-v2-modal] | passed |" in text
    assert "| test_container::test_exit_codes[L4-v1-modal] | skipped |" in text
    assert "containers that were left and ended: 1" in text
    left.wait(raise_on_termination=False)
    for secret in (loopback_server.token_id, loopback_server.token_secret):
        assert secret not in text


def test_without_an_account_it_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.live", "--report", str(tmp_path / "report.md")]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")} | {"HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stderr) == (1, "there is no Modal token: `modal setup` makes one\n")
    assert not (tmp_path / "report.md").exists()
