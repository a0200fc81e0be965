from __future__ import annotations

import pytest

from skyrl_magic.core.lost_results import Lost, lost_results

#: As SkyRL's own script for GSM8K says it (its names and values, without what does not matter here).
SCRIPT = """
set -x
# bash examples/train/gsm8k/run_gsm8k.sh
: "${DATA_DIR:="$HOME/data/gsm8k"}"
: "${LOGGER:=wandb}" # change to "console"
uv run --isolated --extra fsdp -m skyrl.train.entrypoints.main_base \\
  data.train_data="['$DATA_DIR/train.parquet']" \\
  trainer.logger="$LOGGER" \\
  trainer.log_path="/tmp/skyrl-logs" \\
  trainer.ckpt_path="$HOME/ckpts/gsm8k_1.5B_ckpt" \\
  $@
"""
MODAL_SCRIPT = """
CHECK_POINT_DIR="/root/data/ckpts/gsm8k"
EXPORT_PATH="/root/data/export"
uv run -m skyrl.train.entrypoints.main_base trainer.ckpt_path=$CHECK_POINT_DIR trainer.export_path=$EXPORT_PATH $@
"""
FILES = {
    "run.sh": SCRIPT,
    "modal.sh": MODAL_SCRIPT,
    "outer.sh": "cd /root/SkyRL\nbash run.sh trainer.epochs=1 $@\n",
    "examples/gsm8k.sh": SCRIPT,
    "examples/dirname.sh": 'cd "$(dirname "$0")"\nbash gsm8k.sh\n',
}
CKPTS = Lost("checkpoints", "/root/ckpts/gsm8k_1.5B_ckpt", "trainer.ckpt_path=/root/data/ckpts/gsm8k_1.5B_ckpt")
EXPORTS = Lost("exports", "/root/exports", "trainer.export_path=/root/data/exports")
MAIN = "python -m skyrl.train.entrypoints.main_base"


def lost(command: str, **env: str) -> list[Lost]:
    return lost_results(command, read, env)


def read(path: str) -> str | None:
    """A script by its path from the checkout's folder, or by the whole one."""
    return FILES.get(path.removeprefix("/root/SkyRL/"))


@pytest.mark.parametrize(
    "command",
    [
        "bash run.sh",
        "N=1 bash -x run.sh",
        "cd /root/SkyRL && bash run.sh | tee log",
        "bash outer.sh",
        "./run.sh",
        "cd examples && bash gsm8k.sh",
        "cd examples\nbash ./gsm8k.sh",
        "(cd examples/; bash ../run.sh)",
        "bash examples/dirname.sh",
        "bash $SKYRL_REPO_ROOT/run.sh",
        "nohup bash run.sh &",
        "time bash run.sh",
        "env A=1 bash run.sh",
        "timeout 1h ./run.sh",
        "CUDA_VISIBLE_DEVICES=0 nice -n 5 bash run.sh",
        "uv run -- bash run.sh",
        "exec bash run.sh",
        "if true; then bash run.sh; fi",
        "for n in 1 2; do bash run.sh trainer.epochs=$n; done",
        "bash -c 'bash run.sh'",
        "bash -lc 'cd examples; bash gsm8k.sh'",
        "#!/bin/bash -e\nbash run.sh",
    ],
)
def test_skyrls_own_script_writes_beside_the_volume(command: str) -> None:
    assert lost(command) == [CKPTS, EXPORTS]


@pytest.mark.parametrize(
    "command",
    [
        "#!/usr/bin/env python3\nprint('bash run.sh')",
        "echo bash run.sh",
        "cat run.sh",
        "grep -n ckpt_path run.sh",
        "# bash run.sh",
        "cd elsewhere && bash run.sh",
        "bash run.sh trainer.ckpt_path=$SKYRL_DATA_DIR/c trainer.export_path=~/data/e",
    ],
)
def test_what_runs_no_training_or_keeps_its_results_is_not_spoken_of(command: str) -> None:
    assert lost(command) == []


def test_its_script_for_modal_does_not() -> None:
    assert lost("bash modal.sh") == []


def test_an_argument_of_the_command_is_the_last_word() -> None:
    assert lost("bash run.sh trainer.ckpt_path=/root/data/c trainer.export_path=/root/data/e") == []
    assert lost("bash outer.sh trainer.ckpt_path=/root/data/c") == [EXPORTS]
    assert lost("bash modal.sh trainer.export_path='~/out'") == [
        Lost("exports", "~/out", "trainer.export_path=/root/data/out")
    ]


def test_what_a_cell_says_itself_is_read_too() -> None:
    assert [found.what for found in lost(MAIN)] == ["checkpoints", "exports"]
    assert lost(f"{MAIN} trainer.ckpt_path=/root/data/a \\\n  trainer.export_path=/home/ray/data/b") == []
    found = lost(f"OUT=/scratch/x\n{MAIN} trainer.ckpt_path=$OUT/c +trainer.export_path=$OUT/e")
    assert [result.place for result in found] == ["/scratch/x/c", "/scratch/x/e"]
    assert lost(f"{MAIN} trainer.ckpt_path=$OUT/c trainer.export_path=$OUT/e", OUT="/root/data") == []


def test_other_places_of_logs_are_named_and_the_default_where_it_is_not_kept() -> None:
    kept = "trainer.ckpt_path=/root/data/a trainer.export_path=/root/data/b"
    assert lost(f"{MAIN} {kept} trainer.log_path=/tmp/mine")[0].instead == "trainer.log_path=/root/data/mine"
    default = lost_results(f"{MAIN} {kept}", FILES.get, logs_kept=False)
    assert default == [
        Lost("logs of vLLM and the workers", "/tmp/skyrl-logs", "trainer.log_path=/root/data/skyrl-logs")  # noqa: S108
    ]


def test_tensorboard_where_a_command_sends_it_elsewhere() -> None:
    kept = "trainer.ckpt_path=/root/data/a trainer.export_path=/root/data/b trainer.logger=tensorboard"
    assert lost(f"{MAIN} {kept}") == []
    assert lost(f"export TENSORBOARD_DIR=/tmp/tb\n{MAIN} {kept}")[0].instead == "TENSORBOARD_DIR=/root/data/tb"


@pytest.mark.parametrize(
    "command",
    [
        "echo hello",
        "nvidia-smi",
        "uv run examples/train/gsm8k/gsm8k_dataset.py --output_dir ~/gsm8k",
        "grep -rn main_base .",
        "cat run.sh",
        "grep -rn skyrl.train.entrypoints.main_base .",
        "cp examples/train/ppo/main_ppo.py /tmp",
        f"{MAIN} trainer.ckpt_path=$(mktemp -d) trainer.export_path=$UNKNOWN/x",
        f"{MAIN} trainer.ckpt_path=s3://bucket/c trainer.export_path=gs://bucket/e",
        f"{MAIN} trainer.ckpt_interval=-1 trainer.export_path=/root/data/e",
        "bash missing.sh",
        "bash -c 'echo it does not close",
        'echo "a quote\nover lines"',
        "cat <<'EOF'\nit's\nEOF",
        f"cat <<EOF\n{MAIN}\nEOF",
        f"cat >later.txt <<-'END OF IT'\n{MAIN}\n\tEND OF IT",
        f"cat <<-EOF\n\t{MAIN}\n\tEOF",
        f"cat <<EOF\n\tEOF\n{MAIN}\nEOF",
        f"echo {MAIN}",
        f"printf '%s ' {MAIN}",
        "",
    ],
)
def test_what_is_no_training_or_cannot_be_known_is_left_alone(command: str) -> None:
    assert lost(command) == []


@pytest.mark.parametrize(
    "command",
    [
        f"n=$((1<<20))\n{MAIN}",
        f"cat <<'E-O'\nx\nE-O\n{MAIN}",
        f"cat <<\\EOF\nx\nEOF\n{MAIN}",
        f"bash <<EOF\n{MAIN}\nEOF",
        f"cat <<EOF\nx\nEOF\n{MAIN}",
        f"cat <<<EOF\n{MAIN}",
    ],
)
def test_what_follows_a_text_or_is_one_that_a_shell_runs_counts(command: str) -> None:
    assert [found.what for found in lost(command)] == ["checkpoints", "exports"]


@pytest.mark.parametrize("script", ['exec "$@"', '"$@"', 'nohup "$@" &', "time $*"])
def test_a_script_that_runs_its_arguments(script: str) -> None:
    assert lost_results("bash entry.sh", {"entry.sh": script}.get) == []
    given = lost_results(f"bash entry.sh {MAIN}", {"entry.sh": script}.get)
    assert [found.what for found in given] == ["checkpoints", "exports"]


def test_arguments_that_are_not_there_are_no_command() -> None:
    script = 'run() { echo "+ $*"; "$@"; }\nrun'
    assert lost_results("bash entry.sh", {"entry.sh": script}.get) == []
    assert lost_results('"$@" # train.sh', FILES.get) == []


def test_arguments_do_not_multiply() -> None:
    texts = {name: f"bash {after} " + "$@ " * 1000 for name, after in (("a.sh", "b.sh"), ("b.sh", "c.sh"))}
    texts["c.sh"] = f"{MAIN} $@"
    given = lost_results("bash a.sh trainer.ckpt_path=/root/data/c x", texts.get)
    assert [found.what for found in given] == ["exports"]


def test_scripts_of_a_stranger_end() -> None:
    read: list[str] = []

    def script(path: str) -> str:
        read.append(path)
        return "bash a.sh\n" * 1000 + "A=xx\n" + "A=$A$A$A$A\n" * 1000 + f"{MAIN} trainer.ckpt_path=$A\n"

    assert [found.what for found in lost_results("bash a.sh", script)] == ["exports"]
    assert len(read) <= 8


def test_the_old_layout_and_the_examples_own_entry_points() -> None:
    for entry in ("skyrl_train.entrypoints.main_base", "examples.train.ppo.main_ppo"):
        assert [found.what for found in lost(f"uv run -m {entry}")] == ["checkpoints", "exports"]
    assert lost("uv run python examples/train/multiply/main_multiply.py")[0] == Lost(
        "checkpoints", "/root/ckpts", "trainer.ckpt_path=/root/data/ckpts"
    )
