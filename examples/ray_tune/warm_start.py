"""Results of a finished run warm-start the next: the search goes on from all files, with a larger budget.

python examples/ray_tune/warm_start.py FOLDER TRIALS
"""

import random
import sys
from collections.abc import Collection

from json_folder import Config, JsonFolder, Results

STARTS = 4
"""Trials drawn from the whole square, before any looks at results."""


def train(config: Config) -> dict[str, float]:
    """Stand for a training run: its loss is least at (0.7, 0.2)."""
    return {"loss": (config["x"] - 0.7) ** 2 + (config["y"] - 0.2) ** 2}


def propose_near_the_best(results: Results, number: int) -> Config:
    """Return a point near the best known one, the nearer the more is known."""
    draw = random.Random(number)
    if len(results) < STARTS:
        return {"x": draw.random(), "y": draw.random()}
    best = min(results.values(), key=lambda result: result["loss"])["config"]
    reach = 1.0 / len(results)
    return {name: min(max(value + draw.uniform(-reach, reach), 0.0), 1.0) for name, value in best.items()}


def main(folder: str, trials: str) -> None:
    """Search until the folder has so many results."""

    def propose(results: Results, live: Collection[str]) -> tuple[str, Config] | None:
        free = [n for n in range(int(trials)) if f"{n:04}" not in results and f"{n:04}" not in live]
        return (f"{free[0]:04}", propose_near_the_best(results, free[0])) if free else None

    work = JsonFolder(folder, propose, ("loss",))
    known = len(work.results)
    results = work.run(train)
    best = min(results.values(), key=lambda result: result["loss"])
    print(
        f"{known} results were there, {len(results) - known} trials ran; the best loss is {best['loss']:.6f}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
