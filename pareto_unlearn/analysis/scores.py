"""Scores of a front in units that no model of the run decides: two fixed boxes, and quality loss at fixed e.

A hypervolume whose box ends at the run's own highest boundary turns round with that boundary: a better one
makes every score smaller, and methods change places. The boxes here are the same for every run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pareto_unlearn.analysis.front import hypervolume

BOXES = (0.05, 1.0)
"""Largest quality loss (FVU) of the two boxes; both reach from e = 0 to the original's 1."""
LEVELS = (0.05, 0.1, 0.2, 0.35, 0.5)
"""Levels of e at which the least quality loss is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a method's models reach on one split.

    ``areas`` are the shares of ``BOXES`` that they dominate; ``losses`` the least quality loss (FVU) among
    models with e of at most each of ``LEVELS``, None where no model is that complete.
    """

    areas: tuple[float, ...]
    losses: tuple[float | None, ...]


def score(costs: Float[np.ndarray, "n 2"]) -> Scores:
    """Return the scores of models given as rows of (e, FVU); rows that are not finite count for nothing."""
    finite = costs[np.all(np.isfinite(costs), axis=1)]
    return Scores(
        areas=tuple(hypervolume(finite, (0.0, 0.0), (1.0, height)) for height in BOXES),
        losses=tuple(_least_loss(finite, level) for level in LEVELS),
    )


def _least_loss(costs: Float[np.ndarray, "n 2"], level: float) -> float | None:
    reached = costs[costs[:, 0] <= level, 1]
    return float(reached.min()) if len(reached) else None


def median_scores(scores: Sequence[Scores]) -> Scores:
    """Return the median of each score over seeds; None where a seed has none.

    Raises:
        ValueError: there are no scores.
    """
    if not scores:
        raise ValueError("expected the scores of at least one seed, found none")
    losses = zip(*(one.losses for one in scores), strict=True)
    return Scores(
        areas=tuple(float(np.median(column)) for column in zip(*(one.areas for one in scores), strict=True)),
        losses=tuple(_median(column) for column in losses),
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if len(known) == len(values) else None
