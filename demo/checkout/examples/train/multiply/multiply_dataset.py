"""Write a dataset of multiplication problems in SkyRL's schema. It makes the problems itself: no download."""

import argparse
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PROMPT = "Think step by step and put the final answer after ####."
#: Three ways to ask; each is filled with the two factors.
QUESTIONS = (
    "A warehouse has {a} shelves with {b} boxes each. How many boxes are there?",
    "A train makes {a} trips with {b} passengers each. How many passengers does it carry?",
    "What is {a} * {b}?",
)


def make_rows(split: str, count: int, rng: random.Random) -> list[dict[str, Any]]:
    """``count`` problems as rows of SkyRL's dataset schema."""
    rows = []
    for index in range(count):
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        question, answer = rng.choice(QUESTIONS).format(a=a, b=b), str(a * b)
        rows.append(
            {
                "data_source": "multiply",
                "prompt": [{"role": "system", "content": PROMPT}, {"role": "user", "content": question}],
                "env_class": "multiply",
                "reward_spec": {"method": "rule", "ground_truth": answer},
                "extra_info": {"split": split, "index": index, "answer": answer, "question": question},
            }
        )
    return rows


def main() -> None:
    """Write ``train.parquet`` and ``validation.parquet`` into ``--output_dir``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path.home() / "data" / "multiply")
    parser.add_argument("--train_size", type=int, default=1000)
    parser.add_argument("--validation_size", type=int, default=200)
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
