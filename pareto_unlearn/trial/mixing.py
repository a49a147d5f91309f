"""Mixtures of solved models that meet an epsilon, verified over the whole forget set, without training.

Along the straight line between the weights of two models, what epsilon bounds (mean f1, or that of the worst
class) runs from below epsilon to above it, so a bracketing secant finds the point where it meets epsilon. Two
pairs of models are tried, and the mixture with the lower f2 is kept:

- the neighbours of epsilon among the non-dominated models;
- the ends of that edge of the lower convex hull which lies at epsilon. A mixture of two models far apart
  averages the noise of their gradients away, so a longer edge often gives a lower f2; where it does not, the
  first pair wins.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pareto_unlearn.analysis.front import is_non_dominated, is_on_lower_hull
from pareto_unlearn.solver import FlatParameters
from pareto_unlearn.trial.context import Material
from pareto_unlearn.trial.measuring import level_of, measure_completeness, measure_retain_loss

TOLERANCE = 0.002
"""How far what epsilon bounds may end above epsilon, as a share of the valid range or of f1's own."""
MAX_EVALUATIONS = 30


@dataclass(frozen=True, slots=True)
class Crossing:
    """The point where f1 meets epsilon: share of the upper end, measured f1, number of evaluations."""

    share: float
    f1: float
    evaluations: int


@dataclass(frozen=True, slots=True, eq=False)
class Knot:
    """A model whose weights can be mixed.

    ``level`` is raw f1 of what epsilon bounds, and ``f2`` its raw f2. ``exact`` tells that the level comes
    from the whole training set and not from a sample. ``load`` returns the trained weights as one vector.
    """

    name: str
    level: float
    f2: float
    load: Callable[[], Float[Tensor, " p"]]
    exact: bool = True


Pair = tuple[Knot, Knot]
"""The knots below and above epsilon."""
Marks = Callable[[Float[np.ndarray, "n 2"]], Bool[np.ndarray, " n"]]


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """The point between two knots that meets epsilon, with its f2 and its flat weights."""

    pair: Pair
    crossing: Crossing
    f2: float
    values: Float[Tensor, " p"]

    @property
    def names(self) -> str:
        """The names of both knots, the lower first, as in a row's ``parents``."""
        return ",".join(knot.name for knot in self.pair)


class Mixer:
    """Mixes the weights of two knots and measures the mixture, in the material's own model.

    Args:
        material: its model takes the weights of what is measured.
        bounded: what epsilon bounds (``solver.completeness``).
        tolerance: how far a mixture may end above epsilon, in raw f1; None for ``TOLERANCE``.
    """

    def __init__(self, material: Material, bounded: str, tolerance: float | None = None) -> None:
        self.flat = FlatParameters(material.trainable())
        self._material, self._bounded = material, bounded
        self._tolerance = TOLERANCE * material.scales.f1_range if tolerance is None else tolerance

    def best(self, knots: Sequence[Knot], epsilon: float) -> Mixture | None:
        """Return the mixture with the lowest f2 that meets a raw epsilon; None if no pair spans it."""
        mixtures = [
            mixture
            for pair in pairs_around(knots, epsilon)
            if (mixture := self.mix(pair, epsilon)) is not None
        ]
        return min(mixtures, key=lambda mixture: mixture.f2, default=None)

    def mix(self, pair: Pair, epsilon: float) -> Mixture | None:
        """Return the mixture of two knots that meets epsilon over the whole training split.

        Returns:
            None if epsilon does not lie between the levels of the knots, both measured over the whole split.
        """
        lower, upper = pair
        first, second = (knot.load().to(self.flat.values.device) for knot in pair)
        ends = self._exact_level(lower, first), self._exact_level(upper, second)
        if not ends[0] <= epsilon < ends[1]:
            return None

        def measure(share: float) -> float:
            return self.measure_level(first.lerp(second, share))

        crossing = find_crossing(measure, epsilon, self._tolerance, ends)
        values = first.lerp(second, crossing.share)
        self.flat.load(values)
        return Mixture(pair, crossing, measure_retain_loss(self._material, "train"), values)

    def measure_level(self, values: Float[Tensor, " p"]) -> float:
        """Return raw f1 of what epsilon bounds, over the whole training split, with these weights."""
        self.flat.load(values)
        return level_of(measure_completeness(self._material, "train"), self._material.scales, self._bounded)

    def _exact_level(self, knot: Knot, values: Float[Tensor, " p"]) -> float:
        return knot.level if knot.exact else self.measure_level(values)


def weights_of(material: Material) -> Float[Tensor, " p"]:
    """Return a copy of the model's trained weights as they stand, as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in material.trainable()])


def pairs_around(knots: Sequence[Knot], epsilon: float) -> list[Pair]:
    """Return the non-dominated neighbours of a raw epsilon, and the edge of the hull if it is another."""
    found = [bracket(knots, epsilon, marks) for marks in (is_non_dominated, is_on_lower_hull)]
    pairs = {(pair[0].name, pair[1].name): pair for pair in found if pair is not None}
    return list(pairs.values())


def bracket(knots: Sequence[Knot], epsilon: float, marks: Marks) -> Pair | None:
    """Return the two knots next to a raw epsilon, below and above it; None if epsilon lies outside the knots.

    Args:
        knots: models to choose from.
        epsilon: raw.
        marks: tells, from rows of (level, f2), which knots may be chosen.
    """
    costs = np.array([(knot.level, knot.f2) for knot in knots], dtype=float).reshape(-1, 2)
    kept = [knot for knot, chosen in zip(knots, marks(costs), strict=True) if chosen]
    below = [knot for knot in kept if knot.level <= epsilon]
    above = [knot for knot in kept if knot.level > epsilon]
    if not below or not above:
        return None
    return max(below, key=lambda knot: knot.level), min(above, key=lambda knot: knot.level)


def find_crossing(
    measure: Callable[[float], float], target: float, tolerance: float, ends: tuple[float, float]
) -> Crossing:
    """Return the share of the upper end at which f1 meets ``target``, by the Illinois method.

    Args:
        measure: returns f1 at a share in [0, 1].
        target: the epsilon.
        tolerance: in units of f1.
        ends: known f1 at shares 0 and 1; the first is at most ``target``, the second at least ``target``.

    Returns:
        The best share after at most ``MAX_EVALUATIONS``: its f1 lies within ``tolerance`` of ``target``, or
        below.
    """
    low, high = (0.0, ends[0] - target), (1.0, ends[1] - target)
    best, weights = Crossing(0.0, ends[0], 0), [low[1], high[1]]
    for evaluations in range(1, MAX_EVALUATIONS + 1):
        if abs(best.f1 - target) <= tolerance or high[0] - low[0] < 1e-9:
            return best
        share = (low[0] * weights[1] - high[0] * weights[0]) / (weights[1] - weights[0])
        if not low[0] < share < high[0]:
            share = (low[0] + high[0]) / 2
        f1 = measure(share)
        if f1 - target <= tolerance:
            best = Crossing(share, f1, evaluations)
        best = replace(best, evaluations=evaluations)
        if f1 <= target:
            low, weights = (share, f1 - target), [f1 - target, weights[1] / 2]
        else:
            high, weights = (share, f1 - target), [weights[0] / 2, f1 - target]
    return best
