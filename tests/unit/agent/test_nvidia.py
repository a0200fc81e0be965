from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skyrl_magic.agent.nvidia import NvidiaSmi, difference
from skyrl_magic.agent.wire import dispatch
from skyrl_magic.core import protocol
from tests.unit.agent.harness import Session
from tests.unit.agent.test_supervisor import program


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("H100", ["NVIDIA H100 80GB HBM3"]),
        ("H100!:2", ["NVIDIA H100 80GB HBM3"] * 2),
        ("A100", ["NVIDIA A100-SXM4-40GB"]),
        ("A100-80GB", ["NVIDIA A100 80GB PCIe"]),
        ("A100-80GB:2", ["NVIDIA A100-SXM4-80GB"] * 2),
        ("A10", ["NVIDIA A10G"]),
        ("A10", ["NVIDIA A10"]),
        ("L4", ["NVIDIA L4"]),
        ("L40S", ["NVIDIA L40S"]),
        ("T4", ["Tesla T4"]),
        ("RTX-PRO-6000", ["NVIDIA RTX PRO 6000 Blackwell Server Edition"]),
        ("B200+", ["NVIDIA B300 SXM6"]),
        ("B200+", ["NVIDIA B200"]),
        ("none", ["NVIDIA L4"]),
        ("", ["NVIDIA L4"]),
        ("L4", []),
        ("L4", ["No devices were found"]),
    ],
)
def test_what_was_asked_for_is_there(asked: str, names: list[str]) -> None:
    assert difference(asked, names) == ""


@pytest.mark.parametrize(
    ("asked", "names", "said"),
    [
        ("H100", ["NVIDIA H200"], "--gpu H100: the container has NVIDIA H200"),
        ("H100:2", ["NVIDIA H200", "NVIDIA H200"], "--gpu H100:2: the container has 2 x NVIDIA H200"),
        ("A100", ["NVIDIA A100-SXM4-80GB"], ""),
        ("A100-40GB", ["NVIDIA A100-SXM4-80GB"], "--gpu A100-40GB: the container has NVIDIA A100-SXM4-80GB"),
        ("L4", ["NVIDIA L40S"], "--gpu L4: the container has NVIDIA L40S"),
        ("L4:2", ["NVIDIA L4"], "--gpu L4:2: the container shows 1 of 2"),
    ],
)
def test_another_gpu_is_said(asked: str, names: list[str], said: str) -> None:
    assert difference(asked, names) == said


def test_a_session_says_that_another_gpu_came(make_session: Callable[..., Session], tmp_path: Path) -> None:
    env = program(tmp_path / "bin", "nvidia-smi", 'case $1 in *=name) echo "NVIDIA H200";; *) echo 0;; esac')
    session = make_session(about={"gpu": "H100", "backend": "modal"}, env=env)
    for _ in range(2):  # who comes later hears it too
        notice = session.attach().wait_for(protocol.Notice)
        assert (notice.about, notice.text) == ("gpu", "--gpu H100: the container has NVIDIA H200")


def test_it_is_not_asked_again_before_its_answer_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a process may be heard of before its last words."""
    monkeypatch.setenv("PATH", program(tmp_path / "bin", "nvidia-smi", "echo first")["PATH"])
    answers: list[list[str]] = []
    with selectors.DefaultSelector() as selector:
        smi = NvidiaSmi(selector, "name", answers.append, time.monotonic)
        smi.ask()
        pid, _ = os.waitpid(-1, 0)
        assert smi.reaped(pid)
        smi.ask()
        while smi.asking:
            dispatch(selector, 60.0)
        assert answers == [["first"]]
        assert not selector.get_map()
