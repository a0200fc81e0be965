"""Why Ray did not start, or has ended, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from skyrl_magic.agent.ray_words import why_ended, why_not_started

_START = """\
Usage stats collection is disabled.

\x1b[37mLocal node IP\x1b[39m: \x1b[1m127.0.0.1\x1b[22m
"""
_TIMED_OUT = """\
Traceback (most recent call last):
  File "/x/ray/_private/node.py", line 440, in __init__
    raise Exception(
Exception: The current node timed out during startup. This could happen because some of the raylet failed to startup.
"""
_GCS = """\
[2026-12-01 02:03:04,567 I 12 12] (gcs_server) gcs_server.cc:10: starting
[2026-12-01 02:03:05,567 C 12 12] (gcs_server) grpc_server.cc:130:  Check failed: server_ The server did not start
[2026-12-01 02:03:05,568 I 12 12] (gcs_server) gcs_server.cc:11: leaving
"""


@pytest.mark.parametrize(
    ("printed", "says"),
    [
        ("", ""),
        ("\n-----\n", ""),
        (_START, "Local node IP: 127.0.0.1"),
        ("ConnectionError: Ray is already running\n----\nTo connect, run ray.init()\n", "ConnectionError: Ray is"),
        ("bash: ray: No space left on device\n", "bash: ray: No space left on device"),
        (_START + _TIMED_OUT, "Exception: The current node timed out during startup."),
        ("error " + "x" * 1000, "error xxx"),
    ],
)
def test_what_a_start_printed(tmp_path: Path, printed: str, says: str) -> None:
    log = tmp_path / "ray.log"
    log.write_text("ERROR of a start before this one\n" + printed)
    found = why_not_started(log, 33, None)
    assert found.startswith(says)
    assert bool(found) == bool(says)
    assert len(found) < 250


def test_a_node_that_does_not_come_up_is_explained_by_its_own_log(tmp_path: Path) -> None:
    (tmp_path / "ray.log").write_text(_START + _TIMED_OUT)
    (tmp_path / "gcs_server.out").write_text(_GCS)
    found = why_not_started(tmp_path / "ray.log", 0, tmp_path)
    assert found.endswith("(Check failed: server_ The server did not start)")


def test_why_a_process_has_ended(tmp_path: Path) -> None:
    assert why_ended("raylet", None) == why_ended("raylet", tmp_path) == ""
    (tmp_path / "raylet.err").write_text("bash: warning\n\nkilled by the scheduler\n")
    assert why_ended("raylet", tmp_path) == "killed by the scheduler"
    (tmp_path / "raylet.out").write_text(_GCS)
    assert why_ended("raylet", tmp_path).startswith("Check failed: server_")


def test_a_start_that_printed_nothing(tmp_path: Path) -> None:
    assert why_not_started(tmp_path / "missing", 0, None) == ""
