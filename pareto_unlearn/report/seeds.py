"""What several seeds say together: bands of attainment, spreads of a trial, and a slider for each seed.

One or two seeds are drawn as they are; a median of two would hide more than it shows.
"""

from collections.abc import Sequence
from statistics import median

import numpy as np

from pareto_unlearn.analysis.front import attainment
from pareto_unlearn.report.charts import Band
from pareto_unlearn.report.solution import Kind, Measured, Solution, Split
from pareto_unlearn.report.views import finite, group
from pareto_unlearn.report.words import share

LEAST = 3
"""Seeds from which on the page shows their median and range."""
_FRONT = (Kind.ORIGINAL, Kind.BOUNDARY, Kind.EPSILON)


def front_band(solutions: Sequence[Solution], placed: Sequence[tuple[int, float, float]]) -> Band | None:
    """Return what the best, half, and all of the seeds attain; None with fewer than three seeds.

    Args:
        solutions: all of the report.
        placed: (key, completeness, quality loss) of the drawn models, in percent.
    """
    own = [place for place in placed if solutions[place[0]].kind in _FRONT]
    seeds = sorted({solutions[key].seed for key, _, _ in own if solutions[key].kind is not Kind.ORIGINAL})
    if len(seeds) < LEAST:
        return None
    rows = [
        (100.0 - x, y, seed)
        for seed in seeds
        for key, x, y in own
        if solutions[key].seed == seed or solutions[key].kind is Kind.ORIGINAL
    ]
    table = np.array([row[:2] for row in rows], dtype=np.float64)
    names = np.array([row[2] for row in rows], dtype=np.int64)
    best, middle, worst = (
        tuple(sorted((100.0 - float(x), float(y)) for x, y in corners))
        for corners in attainment(table, names, (0.0, 0.5, 1.0))
    )
    return Band(seeds=len(seeds), best=best, median=middle, worst=worst)


def seed_sliders(
    solutions: Sequence[Solution], slider: Sequence[int]
) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Return, for each of three or more seeds, the models that its slider selects, with the original."""
    seeds = sorted({solutions[key].seed for key in slider if solutions[key].kind is not Kind.ORIGINAL})
    if len(seeds) < LEAST:
        return ()
    return tuple(
        (
            seed,
            tuple(
                key for key in slider if solutions[key].seed == seed or solutions[key].kind is Kind.ORIGINAL
            ),
        )
        for seed in seeds
    )


def name_without_seed(solution: Solution) -> str:
    """Return the label that a trial shares with those of other seeds."""
    return solution.label.removesuffix(f" · seed {solution.seed}")


def spreads(solutions: Sequence[Solution]) -> dict[int, dict[str, str]]:
    """Return, for each model that three or more seeds have, the median and range over them by split."""
    found: dict[int, dict[str, str]] = {}
    models = [
        (key, one) for key, one in enumerate(solutions) if one.has_model and one.kind is not Kind.ORIGINAL
    ]
    for members in group(models, lambda pair: (pair[1].kind, name_without_seed(pair[1]))).values():
        if len({one.seed for _, one in members}) >= LEAST:
            words = {split.value: _spread([one.on(split) for _, one in members]) for split in Split}
            found |= {key: words for key, _ in members}
    return found


def _spread(measured: Sequence[Measured]) -> str:
    named = (("completeness", "completeness", 1), ("retained quality", "retained_quality", 2))
    said = []
    for words, name, digits in named:
        values = [value for one in measured if (value := finite(getattr(one, name))) is not None]
        if len(values) >= LEAST:
            low, high = share(min(values), digits), share(max(values), digits)
            said.append(f"{words} {share(median(values), digits)} ({low} to {high})")
    return f"Median of {len(measured)} seeds, with range: {', '.join(said)}." if said else ""
