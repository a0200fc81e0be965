from __future__ import annotations

import platform
from pathlib import Path

import pytest

from skyrl_magic.core.gpus import NO_GPU, Gpu
from skyrl_magic.core.options import Given
from skyrl_magic.core.spec import SessionSpec
from skyrl_magic.ui.local_notes import local_notes, no_gpu_text
from tests.contract.conftest import make_spec

HERE = ".".join(platform.python_version_tuple()[:2])


def spec(backend: str = "local", gpu: str = "none") -> SessionSpec:
    return make_spec(backend, None, gpu=gpu)


def project(folder: Path, text: str) -> list[str]:
    (folder / "pyproject.toml").write_text(text)
    return list(local_notes(spec(), Given(), folder, is_new=True))


def test_options_that_mean_nothing_here_are_named_with_what_there_is() -> None:
    said = Given(image="some/image:tag", cpu=4.0, memory_mib=32768)
    assert next(local_notes(spec(), said, None, is_new=True)) == (
        "--cpu 4 --memory 32768 --image some/image:tag: no effect on the local backend, whose container has this "
        "notebook's Python environment, all CPUs of this machine, the memory of this machine"
    )
    assert list(local_notes(spec("modal"), said, None, is_new=True)) == []


def test_what_nobody_said_is_not_spoken_of(tmp_path: Path) -> None:
    assert list(local_notes(spec(), Given(gpu=NO_GPU, volume="v"), tmp_path, is_new=True)) == []
    assert "the local backend adds no GPU" in next(local_notes(spec(gpu="L4"), Given(), None, is_new=True))


def test_who_comes_to_a_session_hears_of_its_gpu_only_where_he_asked_for_one() -> None:
    def notes(said: Given) -> list[str]:
        return list(local_notes(spec(gpu="L4"), said, None, is_new=False))

    assert notes(Given()) == notes(Given(gpu=NO_GPU)) == []
    assert "--gpu L4: the local backend adds no GPU" in notes(Given(gpu=Gpu("L4", 1)))[0]


def test_a_checkout_for_another_python(tmp_path: Path) -> None:
    text = project(tmp_path, "[project]\nrequires-python = '>=9.1'\n")[0]
    assert text.startswith("the checkout asks for Python >=9.1, and cells on the local backend have this notebook's 3.")
    assert project(tmp_path, f"[project]\nrequires-python = '=={HERE}.*'\n") == []


@pytest.mark.parametrize("text", ["", "[project]\n", "[project]\nrequires-python = 3\n", "project = 1\n", "not toml ="])
def test_a_project_file_that_says_nothing_of_use(tmp_path: Path, text: str) -> None:
    assert project(tmp_path, text) == []
    assert project(tmp_path, "[project]\nrequires-python = 'newer please'\n") == []


@pytest.mark.parametrize(
    "cell",
    [
        *("nvidia-smi", "!nvidia-smi -L", "cd x && nvidia-smi | head", "a=$(nvidia-smi)", "  nvidia-smi"),
        *("watch -n 1 nvidia-smi", "timeout 5 nvidia-smi", "if nvidia-smi; then :; fi", "A=1 nvidia-smi"),
    ],
)
def test_who_looks_for_a_gpu_that_is_not_there_is_told(cell: str) -> None:
    assert "this machine has no NVIDIA GPU" in no_gpu_text(spec(gpu="L4"), cell, lambda _: None)
    assert no_gpu_text(spec(), cell, lambda name: f"/usr/bin/{name}") == ""
    assert "--gpu L4 starts one" in no_gpu_text(spec("modal"), cell, lambda _: None)
    assert no_gpu_text(spec("modal", "L4"), cell, lambda _: None) == ""


@pytest.mark.parametrize(
    "cell",
    [
        *("echo hello", "my-nvidia-smi", "cat /usr/bin/nvidia-smi.txt", "nvidia-smith", "echo nvidia-smi"),
        *("which nvidia-smi", "grep -c nvidia-smi log", "# see nvidia-smi"),
    ],
)
def test_who_does_not_is_not(cell: str) -> None:
    assert no_gpu_text(spec(), cell, lambda _: None) == ""
