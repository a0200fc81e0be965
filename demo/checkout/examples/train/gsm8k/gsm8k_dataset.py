"""Write word problems in the form of GSM8K, in SkyRL's schema.

These are made up here, from a few patterns: no download, and not the GSM8K benchmark.
"""

import argparse
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

INSTRUCTION = 'Let\'s think step by step and output the final answer after "####".'
NAMES = ("Ada", "Bo", "Chen", "Dora", "Emil", "Fatou", "Goran", "Hana")
THINGS = ("apples", "stickers", "marbles", "cards", "pencils", "shells")


def make_problem(rng: random.Random) -> tuple[str, str, int]:
    """A question, its worked solution in GSM8K's notation, and the answer."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    start, bags, per_bag = rng.randint(5, 60), rng.randint(2, 9), rng.randint(2, 12)
    bought = bags * per_bag
    given = rng.randint(1, start + bought - 1)
    answer = start + bought - given
    question = (
        f"{name} has {start} {things}. {name} buys {bags} bags with {per_bag} {things} each "
        f"and gives {given} {things} to a friend. How many {things} does {name} have now?"
    )
    solution = (
        f"The bags hold {bags} * {per_bag} = <<{bags}*{per_bag}={bought}>>{bought} {things}.\n"
        f"So {name} has {start} + {bought} - {given} = <<{start}+{bought}-{given}={answer}>>{answer} {things} now.\n"
        f"#### {answer}"
    )
    return question, solution, answer


def make_rows(split: str, count: int, rng: random.Random) -> list[dict[str, Any]]:
    """``count`` problems as rows of SkyRL's dataset schema."""
    rows = []
    for index in range(count):
        question, solution, answer = make_problem(rng)
        rows.append(
            {
                "data_source": "made-up/gsm8k",
                "prompt": [{"role": "user", "content": f"{question} {INSTRUCTION}"}],
                "env_class": "gsm8k",
                "reward_spec": {"method": "rule", "ground_truth": str(answer)},
                "extra_info": {"split": split, "index": index, "answer": solution, "question": question},
            }
        )
    return rows


def main() -> None:
    """Write ``train.parquet`` and ``validation.parquet`` into ``--output_dir``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path.home() / "data" / "gsm8k")
    parser.add_argument("--train_size", type=int, default=2000)
    parser.add_argument("--validation_size", type=int, default=500)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()

    rng = random.Random(args.seed)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", args.train_size), ("validation", args.validation_size)):
        path = args.output_dir / f"{split}.parquet"
        pq.write_table(pa.Table.from_pylist(make_rows(split, count, rng)), path)
        print(f"{path}: {count} problems")


if __name__ == "__main__":
    main()
