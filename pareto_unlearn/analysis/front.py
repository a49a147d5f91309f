"""Dominance and hypervolume of a set of solutions; every cost is minimised. Knows no torch and no store.

Rows that are not finite are left out: common libraries return a NaN row as the only member of the front.
"""

from collections.abc import Sequence

import moocore
import numpy as np
from jaxtyping import Bool, Float, Int


def is_non_dominated(costs: Float[np.ndarray, "n d"]) -> Bool[np.ndarray, " n"]:
    """Return True for each row that no other row dominates, that is, for the rows of the front.

    Args:
        costs: one row per solution, every column minimised. A row with NaN or Inf is never in the front; all
            of several equal rows are.
    """
    finite = np.all(np.isfinite(costs), axis=1)
    front = np.zeros(len(costs), dtype=bool)
    if np.any(finite):
        front[finite] = moocore.is_nondominated(costs[finite], keep_weakly=True)
    return front


def is_on_lower_hull(costs: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
    """Return True for each row that is a corner of the lower left convex hull.

    No mixture of two other rows is as good as a corner in both costs, so corners are never dominated.

    Args:
        costs: one row per solution, both columns minimised. A row with NaN or Inf is never a corner; of equal
            rows only the first can be.
    """
    corners: list[int] = []
    candidates = np.flatnonzero(is_non_dominated(costs))
    for index in candidates[np.lexsort((candidates, costs[candidates, 0]))]:
        if corners and np.all(costs[corners[-1]] == costs[index]):
            continue
        while len(corners) > 1 and not _turns_up(*costs[[corners[-2], corners[-1], index]]):
            corners.pop()
        corners.append(int(index))
    chosen = np.zeros(len(costs), dtype=bool)
    chosen[corners] = True
    return chosen


def hypervolume(
    costs: Float[np.ndarray, "n 2"], ideal: tuple[float, float], reference: tuple[float, float]
) -> float:
    """Return the share (0 to 1) of the box between ``ideal`` and ``reference`` that the solutions dominate.

    Args:
        costs: one row per solution, both columns minimised. Rows outside the box or not finite add nothing.
        ideal: the best corner; a solution beyond it counts as lying on the edge of the box.
        reference: the worst corner, larger than ``ideal`` in both columns.

    Raises:
        ValueError: the box is empty.
    """
    low, high = np.asarray(ideal), np.asarray(reference)
    if not np.all(high > low):
        raise ValueError(f"the reference point {reference} must exceed the ideal point {ideal} in both costs")
    scaled = (costs[np.all(np.isfinite(costs), axis=1)] - low) / (high - low)
    inside = np.clip(scaled[np.all(scaled < 1.0, axis=1)], 0.0, None)
    if len(inside) == 0:
        return 0.0
    return float(moocore.hypervolume(inside, ref=np.ones(2)))


def attainment(
    costs: Float[np.ndarray, "n 2"], seeds: Int[np.ndarray, " n"], shares: Sequence[float]
) -> list[Float[np.ndarray, "m 2"]]:
    """Return, for each share, the corners of what the fronts of at least that share of the seeds attain.

    A share near 0 gives what the best seed attains at each place, 1 what every seed attains.

    Args:
        costs: one row per solution, both columns minimised. Rows that are not finite are left out.
        seeds: the seed of each row.
        shares: ratios from 0 to 1.
    """
    finite = np.all(np.isfinite(costs), axis=1)
    percentiles = [100.0 * share for share in shares]
    found = moocore.eaf(costs[finite], sets=seeds[finite], percentiles=percentiles)
    return [found[found[:, 2] == percentile, :2] for percentile in percentiles]


def _turns_up(
    first: Float[np.ndarray, " 2"], second: Float[np.ndarray, " 2"], third: Float[np.ndarray, " 2"]
) -> bool:
    """Return whether the second point lies below the line through the others; the first costs rise."""
    (run, rise), (run_on, rise_on) = second - first, third - first
    return bool(run * rise_on > rise * run_on)
