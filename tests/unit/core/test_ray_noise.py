"""Ray's lines about itself, taken from runs of Ray 2.60 and from issues of its users."""

from __future__ import annotations

import pytest

from skyrl_magic.core.ray_noise import RayNoise

_AT = "2026-11-25 01:30:29,719\tINFO "
USING = _AT + "worker.py:1691 -- Using address auto set in the environment variable RAY_ADDRESS"
CONNECTING = _AT + "worker.py:1841 -- Connecting to existing Ray cluster at address: 10.0.2.100:6379..."
CONNECTED = (
    _AT + "worker.py:2029 -- Connected to Ray cluster. View the dashboard at \x1b[1m\x1b[32mhttp://127.0.0.1:8265"
    " \x1b[39m\x1b[22m"
)
EXPORTER = (
    "(pid={pid}) [2026-02-13 02:47:02,310 E {pid} 4711] core_worker_process.cc:825: Failed to establish connection to"
    " the metrics exporter agent. Metrics will not be exported."
)
FULL_DISK = (
    "\x1b[33m(raylet)\x1b[0m [2026-01-25 10:00:{second:02},123 E 17 42] (raylet) file_system_monitor.cc:116: /tmp/ray"
    " is over 95% full, available space: 12.{second} GB"
)


def shown(*lines: str) -> list[str]:
    noise = RayNoise()
    folded = [noise.fold(line) for line in lines]
    return [line for line in (*folded, noise.rest()) if line]


def test_joining_the_cluster_is_one_line() -> None:
    assert shown("before", USING, CONNECTING, CONNECTED, "after") == [
        "before",
        "Ray: joining the cluster at 10.0.2.100:6379",
        "after",
    ]


def test_a_connection_that_was_not_announced_is_shown() -> None:
    assert shown(CONNECTED) == [CONNECTED]


def test_sending_files_is_one_line() -> None:
    lines = (
        "packaging.py:691 -- Creating a file package for local module '/root/SkyRL'.",
        "packaging.py:463 -- Pushing file package 'gcs://_ray_pkg_1.zip' (0.13MiB) to Ray cluster...",
        "packaging.py:476 -- Successfully pushed file package 'gcs://_ray_pkg_1.zip'.",
    )
    assert shown(*(_AT + line for line in lines)) == ["Ray: sending 0.13MiB of files to the cluster"]


def test_repeated_lines_of_rays_processes_are_counted() -> None:
    exporter = [EXPORTER.format(pid=pid) for pid in range(100, 250)]
    full = [FULL_DISK.format(second=second) for second in range(60)]
    assert shown(*exporter, *full) == [
        exporter[0],
        full[0],
        "… 208 more such lines of Ray's own (core_worker_process.cc, file_system_monitor.cc) are in the run's log",
    ]


def test_the_json_form_is_known_too() -> None:
    line = '(A pid={0}) {{"asctime":"2026-02-13 02:47:0{0},310","message":"","filename":"a.cc","lineno":825}}'
    assert len(shown(*(line.format(number) for number in range(5)))) == 2


def test_another_message_of_the_same_file_is_shown() -> None:
    other = EXPORTER.replace("Failed to establish", "Lost the").format(pid=1)
    assert shown(EXPORTER.format(pid=1), other) == [EXPORTER.format(pid=1), other]


@pytest.mark.parametrize(
    "line",
    [
        _AT + "worker.py:1678 -- Calling ray.init() again after it has already been called.",
        _AT + "trainer.py:12 -- Connecting to existing Ray cluster at address: x...",
        _AT.replace("INFO", "WARNING") + "worker.py:2000 -- Connected to Ray cluster.",
        "I am Connecting to existing Ray cluster at address: x...",
        "(f pid=1) step 1 -- loss 0.5",
        "main.cc:12: error: expected ';'",
        "[2026-02-13 02:47:02] core_worker.cc:825: x",
        "",
    ],
)
def test_what_is_not_surely_rays_stays(line: str) -> None:
    assert shown(line, line) == [text for text in (line, line) if text]
