"""``make live``: the contract suite against the real Modal, and a report that can be pasted into a bug report.

Usage: ``python -m tools.live [--gpu none|L4] [--report FILE] [PYTEST ARGUMENT ...]``. It needs a Modal account (an
environment or a profile, as for any use) and starts some containers there for some minutes; without a GPU that costs
cents. What the suite leaves is ended. The report has versions, outcomes, times and the first lines of errors, and no
token, id or name (``tools.live_report``).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path

import modal
import modal.config

from skyrl_magic.cloud.client import account_client, account_server, has_account
from skyrl_magic.core.errors import SkyRLMagicError
from tools import live_report, run_tests

#: The app in which the suite works (``tests/contract/conftest.py``).
APP = "skyrl-magic-contract"
REPORT = run_tests.ROOT / "build" / "live_report.md"


def main(arguments: list[str] | None = None) -> int:
    """Run the suite and write the report; the exit code is pytest's, or 1 where there is no account."""
    parser = argparse.ArgumentParser(prog="python -m tools.live", description=__doc__)
    parser.add_argument("--gpu", choices=["none", "L4"], default="none", help="what the containers have (%(default)s)")
    parser.add_argument("--report", type=Path, default=REPORT, help="where the report is written (%(default)s)")
    options, for_pytest = parser.parse_known_args(arguments)
    if not has_account():
        sys.stderr.write("there is no Modal token: `modal setup` makes one\n")
        return 1
    print(f"the contract suite on {account_server()}, --gpu {options.gpu}: containers for some minutes", flush=True)
    began_s = time.time()
    with tempfile.TemporaryDirectory(prefix="skyrl-", ignore_cleanup_errors=True) as scratch:
        env = run_tests.test_env(Path(scratch), uuid.uuid4().hex, keep_account=True)
        env["SKYRL_MAGIC_LIVE_GPU"] = options.gpu
        outcomes = Path(scratch) / "outcomes.xml"
        command = ["-m", "pytest", "-q", "tests/contract", "-k", "modal", f"--junitxml={outcomes}", *for_pytest]
        passed = run_tests.passes("the contract suite on Modal", (*command, f"--basetemp={scratch}/t"), env)
        tests = live_report.read_outcomes(outcomes)
    left = _end_left()
    facts = live_report.Facts(options.gpu, account_server() == modal.config.DEFAULT_SERVER_URL, began_s, left)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(live_report.report(facts, tests, live_report.secrets_here()), encoding="utf-8")
    print(f"the report: {os.path.relpath(options.report)}")
    return 0 if passed else 1


def _end_left() -> int:
    """End the containers that the suite has left; how many there were."""
    left = 0
    with contextlib.suppress(SkyRLMagicError, modal.exception.Error):
        client = account_client()
        app = modal.App.lookup(APP, client=client)
        for sandbox in modal.Sandbox.list(app_id=str(app.app_id), client=client):
            sandbox.terminate()
            left += 1
    return left


if __name__ == "__main__":
    sys.exit(main())
