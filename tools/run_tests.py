"""The test command: linters, types, architecture, then pytest in stages, then a look for what was left behind.

Usage: ``python -m tools.run_tests``. Every stage runs, also after one failed; the exit code is 1 when any failed.
Tests get a home, a temporary folder and no Modal account of their own, so that they neither read nor leave anything
in the user's; with ``SKYRL_MAGIC_LIVE=1`` the live tests run too, with the user's account.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from tools import leftovers

ROOT = Path(__file__).resolve().parent.parent
PYTEST = ("-m", "pytest", "-q", "--color=auto", "--durations=10", "--durations-min=5")
#: pytest's exit code when nothing matched the marker expression.
NO_TESTS = 5

CHECKS = {
    "lint": ("-m", "ruff", "check", "."),
    "format": ("-m", "ruff", "format", "--check", "."),
    "types": ("-m", "mypy"),
    "architecture": ("-c", "from importlinter.cli import lint_imports_command as lint; lint()"),
}
#: One Ray start at a time: two on two cores time out. The rest runs in parallel, a file's tests in one process, as they
#: share kernels and servers; most of a test's time is waiting, so there are more processes than cores.
TESTS = {
    "tests": (*PYTEST, "-n", "4", "--dist", "loadfile", "-m", "not (serial or faults or ray or browser or live)"),
    "tests, one at a time": (*PYTEST, "-m", "serial and not (faults or ray or browser or live)"),
    "faults, a few times each": (*PYTEST, "-m", "faults and not ray"),
    "tests with Ray": (*PYTEST, "-m", "ray and not (browser or live)"),
    "tests in a browser": (*PYTEST, "-m", "browser and not live"),
}
LIVE_TESTS = {"tests on Modal": (*PYTEST, "-m", "live")}


def main() -> int:
    """Run all stages and say which failed."""
    # Who starts this in the background lets it ignore Stop (`command &`), and tests press it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    live = os.environ.get("SKYRL_MAGIC_LIVE") == "1"
    failed = [name for name, command in CHECKS.items() if not passes(name, command, dict(os.environ))]
    mark = uuid.uuid4().hex
    # Short: sockets lie below it, and a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="skyrl-", ignore_cleanup_errors=True) as scratch:
        env = test_env(Path(scratch), mark, keep_account=live)
        stages = {**TESTS, **LIVE_TESTS} if live else TESTS
        basetemp = f"--basetemp={scratch}/t"
        failed += [name for name, command in stages.items() if not passes(name, (*command, basetemp), env)]
        left = leftovers.find(mark, Path(scratch))
    for line in left:
        print(f"left behind: {line}")
    if left:
        failed.append("clean-up")
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall stages passed; nothing was left behind")
    return 1 if failed else 0


def passes(name: str, command: tuple[str, ...], env: dict[str, str]) -> bool:
    """Run one stage and say how long it took."""
    print(f"\n== {name}", flush=True)
    began = time.monotonic()
    command = (sys.executable, *command)
    code = subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, check=False).returncode
    passed = code == 0 or (code == NO_TESTS and "pytest" in command)
    print(f"== {name}: {'passed' if passed else f'FAILED (exit code {code})'}, {time.monotonic() - began:.0f} s")
    return passed


def test_env(scratch: Path, mark: str, *, keep_account: bool) -> dict[str, str]:
    """The environment of the tests: own home, own temporary folder, no account; ``mark`` tells their processes."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "SKYRL_", "JUPYTER"))}
    env[leftovers.MARK] = mark
    # Who starts a session has an id in the settings; the home itself shows what a test made there and should not have.
    folders = {"TMPDIR": scratch / "tmp", "HOME": scratch / "home", "XDG_CONFIG_HOME": scratch / "config"}
    for name, folder in folders.items():
        folder.mkdir()
        env[name] = str(folder)
    if keep_account:
        env["HOME"] = os.environ["HOME"]
        env["SKYRL_MAGIC_LIVE"] = "1"
    else:
        env = {name: value for name, value in env.items() if not name.startswith("MODAL_")}
    # Commands of the virtual environment come first, as in an activated one.
    env["PATH"] = os.pathsep.join((str(ROOT / ".venv" / "bin"), env.get("PATH", os.defpath)))
    return env


if __name__ == "__main__":
    sys.exit(main())
