"""A grid that resumes without repeats: stop it, start it again, add points; what has a file never runs again.

python examples/ray_tune/resume_grid.py FOLDER [RATE ...]
"""

import sys
from collections.abc import Collection

from json_folder import Config, JsonFolder, Results

WIDTHS = (8, 16)


def train(config: Config) -> dict[str, float]:
    """Stand for a training run."""
    return {"loss": config["rate"] / config["width"]}


def main(folder: str, *rates: str) -> None:
    """Run what is missing of the grid."""
    grid = {
        f"rate-{rate}-width-{width}": {"rate": float(rate), "width": width}
        for rate in rates or ("0.1", "0.2")
        for width in WIDTHS
    }

    def propose(results: Results, live: Collection[str]) -> tuple[str, Config] | None:
        return next(((key, grid[key]) for key in grid if key not in results and key not in live), None)

    work = JsonFolder(folder, propose, ("loss",))
    known = len(work.results)
    results = work.run(train)
    print(f"{known} results were there, {len(results) - known} points ran")


if __name__ == "__main__":
    main(*sys.argv[1:])
