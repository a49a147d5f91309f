"""The best *set* of trials is the answer: those that no other beats in both objectives.

    python examples/ray_tune/best_set.py FOLDER TRIALS

Tune's answer is one best trial of one metric. Here every trial goes into the widest gap of the set so far.
"""

import sys
from collections.abc import Collection
from itertools import pairwise

from json_folder import Config, JsonFolder, Results


def train(config: Config) -> dict[str, float]:
    """Stand for a training run: a size costs time and lowers the error, but not between 0.4 and 0.6."""
    size = config["size"]
    bump = 0.5 if 0.4 < size < 0.6 else 0.0
    return {"cost": size, "error": (1.0 - size) ** 2 + bump}


def best_set(results: Results) -> list[Config]:
    """Return the results that no other beats in both objectives, by rising cost."""
    ordered = sorted(results.values(), key=lambda result: (result["cost"], result["error"]))
    least, best = float("inf"), []
    for result in ordered:
        if result["error"] < least:
            least = result["error"]
            best.append(result)
    return best


def widest_gap(results: Results) -> float:
    """Return the size in the middle of the widest gap of the set in which no trial was yet."""
    tried = {result["config"]["size"] for result in results.values()}
    gaps = [
        (abs(one["error"] - two["error"]) + two["cost"] - one["cost"], (one["cost"] + two["cost"]) / 2)
        for one, two in pairwise(best_set(results))
    ]
    return max(gap for gap in gaps if gap[1] not in tried)[1]


def main(folder: str, trials: str) -> None:
    """Fill the trade-off with so many trials, and print the set."""

    def propose(results: Results, live: Collection[str]) -> tuple[str, Config] | None:
        if live or len(results) >= int(trials):
            return None
        size = float(len(results)) if len(results) < 2 else widest_gap(results)
        return f"size-{size:.6f}", {"size": size}

    results = JsonFolder(folder, propose, ("cost", "error")).run(train)
    chosen = best_set(results)
    print(f"{len(chosen)} of {len(results)} trials are the answer:")
    for result in chosen:
        print(f"cost {result['cost']:.4f} error {result['error']:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
