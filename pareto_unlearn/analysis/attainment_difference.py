"""Where two sets of fronts differ: how many seeds of either reach a place of the plane."""

from collections.abc import Sequence

import moocore
import numpy as np
from jaxtyping import Float

LEAST_SEEDS = 3
"""Fronts on each side from which a share of seeds says something."""


def attainment_difference(
    first: Sequence[Float[np.ndarray, "_ 2"]], second: Sequence[Float[np.ndarray, "_ 2"]]
) -> Float[np.ndarray, "n 5"]:
    """Return rectangles of the plane of costs, and by which share more fronts of ``first`` reach them.

    A front reaches a place if one of its models is at least as good in both costs. The empirical attainment
    functions are those of Grunert da Fonseca et al. (2001). Rows are (left, low, right, high, difference); a
    side may be infinite; a negative difference is in favour of ``second``. Places that equally many reach are
    left out, and so are models that are not finite.

    Args:
        first: the fronts of one side, a seed each, as rows of (e, loss).
        second: those of the other side, equally many.

    Raises:
        ValueError: the sides have unequal numbers of fronts, or a front has no finite model.
    """
    if len(first) != len(second):
        raise ValueError(f"expected equally many fronts, found {len(first)} and {len(second)}")
    found = moocore.eafdiff(_numbered(first), _numbered(second), rectangles=True)
    shares: np.ndarray = np.asarray(found, dtype=np.float64).reshape(-1, 5)
    shares[:, 4] /= len(first)
    apart: np.ndarray = shares[shares[:, 4] != 0.0]
    return apart


def _numbered(fronts: Sequence[np.ndarray]) -> np.ndarray:
    rows = []
    for number, front in enumerate(fronts, start=1):
        finite = front[np.all(np.isfinite(front), axis=1)]
        if not len(finite):
            raise ValueError(f"expected a model with finite costs in every front, found none in {number}")
        rows.append(np.column_stack([finite, np.full(len(finite), float(number))]))
    stacked: np.ndarray = np.concatenate(rows)
    return stacked
