"""The lessons' checkout: its layout, its datasets' schema, its scripts, and that it is what was published."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from demo import places, prepare_checkout

SCRIPTS = Path("examples/train")


def run(checkout: Path, *command: str, cwd: str = ".", **env: str) -> str:
    """What a command prints in the checkout, with the Python of the tests first on PATH."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    full_env = {**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1", **env}
    done = subprocess.run(command, cwd=checkout / cwd, env=full_env, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode()


def test_has_todays_layout_and_the_published_package(checkout: Path) -> None:
    assert (checkout / "pyproject.toml").is_file()
    assert (checkout / "skyrl-gym" / "pyproject.toml").is_file()
    assert (checkout / "skyrl-gym" / "skyrl_gym" / "envs" / "gsm8k" / "env.py").is_file()
    assert not (checkout / "skyrl-train").exists()
    assert not list(checkout.rglob("*.egg-info"))


def test_preparing_again_restores_what_changed_and_touches_nothing_else(checkout: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(checkout, tmp_path / "SkyRL")
    changed, added = copy / SCRIPTS / "gsm8k" / "score_answers.py", copy / "mine.txt"
    original = changed.read_bytes()
    changed.write_text("broken", encoding="utf-8")
    added.write_text("mine", encoding="utf-8")
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file() and path != changed}

    prepare_checkout.prepare(copy, places.BUILD / "downloads")

    assert changed.read_bytes() == original
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file() and path != changed} == before


def test_a_damaged_download_is_fetched_again(tmp_path: Path) -> None:
    version, _ = prepare_checkout.pinned()
    good = prepare_checkout.fetch(places.BUILD / "downloads").read_bytes()
    (tmp_path / f"skyrl_gym-{version}.tar.gz").write_bytes(good[:1000])
    assert prepare_checkout.fetch(tmp_path).read_bytes() == good


@pytest.mark.parametrize("name", ["gsm8k", "multiply"])
def test_datasets_have_the_schema_of_skyrl(checkout: Path, tmp_path: Path, name: str) -> None:
    script = SCRIPTS / name / f"{name}_dataset.py"
    sizes = ("--train_size", "30", "--validation_size", "7")
    run(checkout, "python", str(script), "--output_dir", str(tmp_path), *sizes)
    for split, count in (("train", 30), ("validation", 7)):
        rows = pq.read_table(tmp_path / f"{split}.parquet").to_pylist()
        assert len(rows) == count
        for index, row in enumerate(rows):
            assert set(row) == {"data_source", "prompt", "env_class", "reward_spec", "extra_info"}
            assert row["env_class"] == name
            assert {message["role"] for message in row["prompt"]} <= {"system", "user"}
            assert set(row["reward_spec"]) == {"method", "ground_truth"}
            assert row["extra_info"]["split"] == split
            assert row["extra_info"]["index"] == index
            assert row["extra_info"]["question"] in row["prompt"][-1]["content"]


def test_scoring_uses_the_real_environment(checkout: Path, tmp_path: Path) -> None:
    env = {"SKYRL_REPO_ROOT": str(checkout), "SKYRL_DATA_DIR": str(tmp_path)}
    command = ("bash", "run_scoring.sh", "--passes", "2", "--samples", "1", "--export_path", str(tmp_path / "out"))
    stdout = run(checkout, *command, cwd=str(SCRIPTS / "gsm8k"), **env)
    assert "'eval/right/avg_score': '1.0000'" in stdout
    assert "'eval/wrong/avg_score': '0.0000'" in stdout
    assert stdout.count("\r") >= 100
    lines = (tmp_path / "out" / "dumped_evals" / "eval_only" / "made-up_gsm8k.jsonl").read_text().splitlines()
    assert len(lines) == 500
