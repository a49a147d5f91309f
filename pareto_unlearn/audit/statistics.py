"""Figures with the intervals that go with them; numpy alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

NORMAL_95 = 1.959964
FALSE_POSITIVES = 0.01
"""Share of non-members that may be taken for members where the hits of an attack are counted."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its 95 % interval, None without one, and how many images it was measured on."""

    value: float
    low: float | None
    high: float | None
    n: int


def mean_figure(values: Float[np.ndarray, " n"]) -> Figure:
    """Return the mean of independent values, its interval from their standard error."""
    value = float(values.mean())
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Figure(value, value - NORMAL_95 * error, value + NORMAL_95 * error, len(values))


def share_figure(hits: int, count: int) -> Figure:
    """Return a share with Wilson's interval."""
    share, z2 = hits / count, NORMAL_95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return Figure(share, max(middle - half, 0.0), min(middle + half, 1.0), count)


def area_under_curve(members: Float[np.ndarray, " m"], others: Float[np.ndarray, " n"]) -> Figure:
    """Return the probability that a member scores above a non-member, ties counted half.

    The interval is DeLong's (Biometrics 44, 1988), by the placements of each score among the other group.
    """
    first, second = len(members), len(others)
    ranks = rankdata(np.concatenate([members, others]))
    above_others = (ranks[:first] - rankdata(members)) / second
    below_members = 1.0 - (ranks[first:] - rankdata(others)) / first
    value = float(above_others.mean())
    spread = _variance(above_others) / first + _variance(below_members) / second
    half = NORMAL_95 * math.sqrt(spread)
    return Figure(value, max(value - half, 0.0), min(value + half, 1.0), first + second)


def hits_at_false_positives(members: Float[np.ndarray, " m"], others: Float[np.ndarray, " n"]) -> Figure:
    """Return the share of members above all but ``FALSE_POSITIVES`` of the non-members.

    With fewer than a hundred non-members the threshold is the largest of them.
    """
    allowed = math.floor(FALSE_POSITIVES * len(others))
    threshold = np.sort(others)[::-1][allowed]
    return share_figure(int((members > threshold).sum()), len(members))


def _variance(values: Sequence[float] | Float[np.ndarray, " n"]) -> float:
    return float(np.var(values, ddof=1)) if len(values) > 1 else 0.0
