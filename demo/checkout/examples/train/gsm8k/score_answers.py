"""Score right and wrong answers with skyrl-gym's gsm8k environment, as a trainer does with a model's answers.

There is no model here. The answers are made from the dataset: some right, some wrong, some without the ``####`` that
the environment asks for. With ``--export_path`` the scored answers are written as SkyRL writes its evaluations.
"""

import argparse
import json
import random
from pathlib import Path
from pprint import pformat
from typing import Any

import pyarrow.parquet as pq
import skyrl_gym

GREEN, RED, BOLD, RESET = "\x1b[32m", "\x1b[31m", "\x1b[1m", "\x1b[0m"
BAR_WIDTH = 30


def make_answer(row: dict[str, Any], rng: random.Random) -> tuple[str, str]:
    """A kind of answer and its text."""
    solution = row["extra_info"]["answer"]
    kind = rng.choice(("right", "right", "wrong", "no ####"))
    if kind == "wrong":
        return kind, solution.rsplit("#### ", 1)[0] + f"#### {int(row['reward_spec']['ground_truth']) + 1}"
    if kind == "no ####":
        return kind, solution.rsplit("#### ", 1)[0]
    return kind, solution


def score(row: dict[str, Any], answer: str) -> float:
    """The reward that the row's environment gives for an answer."""
    env = skyrl_gym.make(row["env_class"], extras={"reward_spec": row["reward_spec"]})
    env.init(row["prompt"])
    reward = float(env.step(answer)["reward"])
    env.close()
    return reward


def show_bar(done: int, total: int) -> None:
    """Redraw the progress bar in place."""
    filled = BAR_WIDTH * done // total
    bar = "█" * filled + "·" * (BAR_WIDTH - filled)
    print(f"\rscoring {bar} {done}/{total}", end="\n" if done == total else "", flush=True)


def score_pass(rows: list[dict[str, Any]], samples: int, rng: random.Random) -> list[tuple[str, dict[str, Any]]]:
    """Score ``samples`` answers to each problem: the kind of each answer and its line of SkyRL's evaluation dump."""
    results = []
    total = len(rows) * samples
    for row in rows:
        for _ in range(samples):
            kind, answer = make_answer(row, rng)
            results.append((kind, as_eval(row, answer, score(row, answer))))
            if len(results) % max(1, total // 50) == 0:
                show_bar(len(results), total)
    return results


def main() -> None:
    """Print the mean reward of each pass, then the metrics of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--samples", type=int, default=20, help="answers to each problem in each pass")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--export_path", type=Path)
    args = parser.parse_args()

    rows = pq.read_table(args.data).to_pylist()
    rng = random.Random(args.seed)
    print(f"{BOLD}{len(rows)} problems{RESET} from {args.data}", flush=True)
    scores: dict[str, list[float]] = {}
    for number in range(1, args.passes + 1):
        results = score_pass(rows, args.samples, rng)
        for kind, line in results:
            scores.setdefault(kind, []).append(line["score"])
        mean = mean_of([line["score"] for _, line in results])
        print(f"pass {number}: {GREEN if mean >= 0.5 else RED}mean reward {mean:.3f}{RESET}", flush=True)
    metrics = {"eval/all/avg_score": mean_of([value for values in scores.values() for value in values])}
    metrics.update({f"eval/{kind}/avg_score": mean_of(values) for kind, values in sorted(scores.items())})
    print(pformat({name: f"{value:.4f}" for name, value in metrics.items()}))
    if args.export_path:
        export(args.export_path, [line for _, line in results], metrics)


def mean_of(values: list[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)


def as_eval(row: dict[str, Any], answer: str, reward: float) -> dict[str, Any]:
    """One line of SkyRL's evaluation dump."""
    return {
        "input_prompt": row["prompt"][-1]["content"],
        "output_response": answer,
        "score": reward,
        "stop_reason": "stop",
        "env_class": row["env_class"],
        "env_extras": {"reward_spec": row["reward_spec"], "extra_info": row["extra_info"]},
        "data_source": row["data_source"],
    }


def export(path: Path, results: list[dict[str, Any]], metrics: dict[str, float]) -> None:
    """Write the last pass as ``dumped_evals/eval_only/`` holds them."""
    folder = path / "dumped_evals" / "eval_only"
    folder.mkdir(parents=True, exist_ok=True)
    source = results[0]["data_source"].replace("/", "_")
    (folder / f"{source}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in results))
    (folder / "aggregated_results.jsonl").write_text(json.dumps(metrics) + "\n")
    print(f"written to {folder}")


if __name__ == "__main__":
    main()
