"""Score answers with skyrl-gym in parallel Ray tasks, on the cluster that is already running in the session."""

import argparse
import os
from pathlib import Path

import pyarrow.parquet as pq
import ray

GYM = str(Path(__file__).resolve().parents[3] / "skyrl-gym")


@ray.remote
def score_chunk(number: int, rows: list[dict]) -> tuple[int, int, float, int]:
    """Score the worked solution of each row. Returns the chunk's number, its size, its mean reward and its process."""
    import skyrl_gym  # It is on the path of the workers only.

    total = 0.0
    for row in rows:
        env = skyrl_gym.make(row["env_class"], extras={"reward_spec": row["reward_spec"]})
        total += float(env.step(row["extra_info"]["answer"])["reward"])
    return number, len(rows), total / len(rows), os.getpid()


def main() -> None:
    """Cut the dataset into ``--chunks`` tasks and print each result when it arrives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--chunks", type=int, default=4)
    args = parser.parse_args()

    ray.init("auto", runtime_env={"env_vars": {"PYTHONPATH": GYM}})
    print(f"the cluster has {ray.cluster_resources().get('CPU', 0):.0f} CPUs", flush=True)
    rows = pq.read_table(args.data).to_pylist()
    size = -(-len(rows) // args.chunks)
    waiting = [score_chunk.remote(n, rows[n * size : (n + 1) * size]) for n in range(args.chunks)]
    workers = set()
    while waiting:
        (ready,), waiting = ray.wait(waiting, num_returns=1)
        number, count, mean, pid = ray.get(ready)
        workers.add(pid)
        print(f"chunk {number} done: {count} problems, mean reward {mean:.2f}", flush=True)
    print(f"{len(rows)} problems scored by {len(workers)} Ray workers")


if __name__ == "__main__":
    main()
