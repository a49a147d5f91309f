"""Whose pictures a page holds: those of all models of a usual run, those of a choice of a large one."""

from collections.abc import Sequence

import numpy as np

from pareto_unlearn.analysis.naming import find_trial
from pareto_unlearn.report.facts import Recommendation
from pareto_unlearn.report.solution import Kind, Solution
from pareto_unlearn.store import StoredRun

MOST = 60
"""Models up to which a page shows all of them everywhere."""
CHOSEN = 30
"""Models of a larger run with pictures and columns in the tables; all others have a row and a point."""


def find_wanted(run: StoredRun, solutions: Sequence[Solution], names: Sequence[str]) -> list[int]:
    """Return the models that a reader asked to see, by any name that a verb takes.

    Raises:
        ConfigError: a name fits no trial or several, or one without a model.
    """
    ids = [find_trial(run.records, name).trial_id for name in names]
    return [key for key, one in enumerate(solutions) if one.trial_id in ids]


def choose_shown(
    solutions: Sequence[Solution],
    columns: Sequence[int],
    recommended: Recommendation | None,
    wanted: Sequence[int],
) -> tuple[int, ...]:
    """Return the models to show, in the order of the columns.

    Of a large run these are what was wanted, the recommended model with the ends of its seed's front, the
    original, and others evenly over the rest, which runs from the least to the most forgotten.
    """
    if len(columns) <= MOST:
        return tuple(columns)
    seed = solutions[columns[0] if recommended is None else recommended.key].seed
    first = {key for key in wanted if key in columns}
    first |= set() if recommended is None else {recommended.key}
    first |= {key for key in columns if _is_landmark(solutions[key], seed)}
    rest = [key for key in columns if key not in first]
    count = min(max(CHOSEN - len(first), 0), len(rest))
    places = np.linspace(0, len(rest) - 1, count)
    first |= {rest[round(place)] for place in places}
    return tuple(key for key in columns if key in first)


def _is_landmark(solution: Solution, seed: int) -> bool:
    return solution.kind is Kind.ORIGINAL or (solution.kind is Kind.BOUNDARY and solution.seed == seed)
