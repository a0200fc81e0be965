"""A training run without a model: it takes its time, prints what a real one prints and writes checkpoints.

The layout is SkyRL's: ``global_step_N/`` for each checkpoint, and ``latest_ckpt_global_step.txt``, written last, with
the number of the newest one that is complete. What is learned is a number.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path

LATEST = "latest_ckpt_global_step.txt"


def save(folder: Path, step: int, skill: float) -> None:
    """Write a checkpoint, and only then say that it is there."""
    checkpoint = folder / f"global_step_{step}"
    (checkpoint / "policy").mkdir(parents=True, exist_ok=True)
    (checkpoint / "policy" / "weights.json").write_text(json.dumps({"skill": skill}))
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    new = folder / f"{LATEST}.new"
    new.write_text(str(step))
    new.replace(folder / LATEST)


def load(folder: Path) -> tuple[int, float]:
    """The step and the skill of the newest complete checkpoint; a fresh start where there is none."""
    try:
        step = int((folder / LATEST).read_text())
    except FileNotFoundError:
        return 0, 0.05
    weights = json.loads((folder / f"global_step_{step}" / "policy" / "weights.json").read_text())
    return step, weights["skill"]


def main() -> None:
    """Train from the newest checkpoint to ``--steps``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt_path", type=Path, default=Path.home() / "data" / "ckpts" / "pretend")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seconds_per_step", type=float, default=0.2)
    parser.add_argument("--ckpt_interval", type=int, default=20)
    parser.add_argument("--log_interval", type=int, default=20)
    parser.add_argument("--resume_mode", choices=("latest", "null"), default="null")
    options = parser.parse_args()
    step, skill = load(options.ckpt_path) if options.resume_mode == "latest" else (0, 0.05)
    print(
        f"resumed from global_step_{step}" if step else "started from nothing", f"(process {os.getpid()})", flush=True
    )
    rng = random.Random(step)
    while step < options.steps:
        step += 1
        time.sleep(options.seconds_per_step)
        skill += (0.9 - skill) * 0.02
        reward = min(1.0, max(0.0, skill + rng.uniform(-0.03, 0.03)))
        if step % options.log_interval == 0:
            metrics = {"policy/loss": f"{1 - skill:.4f}", "reward/avg_raw_reward": f"{reward:.4f}"}
            print(f"Step {step}: \n{metrics}", flush=True)
        if step % options.ckpt_interval == 0 or step == options.steps:
            save(options.ckpt_path, step, skill)
            print(f"saved global_step_{step}", flush=True)


if __name__ == "__main__":
    main()
