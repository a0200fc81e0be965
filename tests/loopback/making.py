"""Sandboxes for tests: each in an app of its own, all ended afterwards."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import modal
import pytest

#: Generous, for a machine with two busy cores, in seconds.
DEADLINE_S = 60.0


class SandboxMaker:
    """Creates sandboxes of one family of calls and ends them."""

    def __init__(self, client: modal.Client, gpu: str | None) -> None:
        self.client = client
        self.gpu = gpu
        self.app_name = f"app-{uuid.uuid4().hex[:12]}"
        self.app = modal.App.lookup(self.app_name, create_if_missing=True, client=client)
        self.image = modal.Image.from_registry("example/image:1")
        self._made: list[modal.Sandbox] = []

    def __call__(self, *arguments: str, **options: Any) -> modal.Sandbox:
        """A new sandbox with Modal's own options."""
        options = {"image": self.image, "timeout": 300, "gpu": self.gpu, **options}
        sandbox = modal.Sandbox.create(*arguments, app=self.app, client=self.client, **options)
        self._made.append(sandbox)
        return sandbox

    def close(self) -> None:
        """End all."""
        for sandbox in self._made:
            sandbox.terminate()


def run(sandbox: modal.Sandbox, script: str, **options: Any) -> tuple[int, str, str]:
    """Run a script with bash; return its exit code, stdout and stderr."""
    process = sandbox.exec("bash", "-c", script, **options)
    stdout, stderr = process.stdout.read(), process.stderr.read()
    return process.wait(), stdout, stderr


def until(condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of ``condition``, asked until the deadline."""
    end_s = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end_s, "the condition did not come true in time"
        time.sleep(0.02)
    return value


def hide(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers start where the program is not installed: something that cannot run lies over it."""
    found = shutil.which(program)
    assert found is not None
    words = ["bwrap", "--cap-add", "ALL", "--dev-bind", "/", "/", "--ro-bind", "/dev/null", str(Path(found).resolve())]
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.join([*words, "--", sys.executable])} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
