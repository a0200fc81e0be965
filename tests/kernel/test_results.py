"""A training whose results would end with its container: said before it runs, and when its session is stopped."""

from __future__ import annotations

from tests.kernel.conftest import Kernel

_MAIN = """\
import pathlib, sys
options = dict(argument.split("=", 1) for argument in sys.argv[1:])
folder = pathlib.Path(options["trainer.ckpt_path"])
folder.mkdir(parents=True)
(folder / "model.pt").write_bytes(b"x" * 3_000_000)
"""
_SCRIPT = (
    "python3 -m skyrl.train.entrypoints.main_base trainer.ckpt_path=$HOME/ckpts/a trainer.export_path=/root/data/e $@\n"
)


def test_a_training_is_told_where_its_checkpoints_go(kernel: Kernel) -> None:
    package = kernel.folder / "skyrl" / "train" / "entrypoints"
    package.mkdir(parents=True)
    (package / "main_base.py").write_text(_MAIN)
    (kernel.folder / "run_it.sh").write_text(_SCRIPT)
    cell = kernel.run("%%skyrl_modal --session results\nbash run_it.sh")
    assert cell.status == "ok", cell.error
    said = "checkpoints go to /root/ckpts/a: not on the volume, gone with the container; add trainer.ckpt_path="
    assert [note for note in cell.notes if note.startswith(said)] == [f"{said}/root/data/ckpts/a"]
    cell = kernel.run("%%skyrl_modal --session results\nbash run_it.sh trainer.ckpt_path=/root/data/ckpts/kept")
    assert (cell.status, [note for note in cell.notes if "not on the volume" in note]) == ("ok", [])
    cell = kernel.run("%%skyrl_modal --session results\nreadlink /tmp/skyrl-logs; echo ${TENSORBOARD_DIR%-*-*}")
    assert cell.out == "/root/data/skyrl-logs\n/root/data/tensorboard_log/results\n"
    cell = kernel.run("%skyrl_stop results")
    line = next(note for note in cell.notes if note.startswith("session results had written"))
    assert "/root/ckpts (3.0 MB): not on the volume" in line
    assert "next time `cp -r /root/ckpts /root/data/`" in line
