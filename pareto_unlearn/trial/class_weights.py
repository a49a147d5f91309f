"""Constraints that hold epsilon for every forget class or image, not their mean, at one backward pass a step.

For classes the constraint becomes a weighted mean of the classes' own e, each in units of its own range (1 =
untouched). The weights follow a proportional-integral rule on how far each class lies above the level, so
they gather on the classes that lag behind until all of them meet it. Where a batch holds only some of the
classes, by turns, their part is scaled up and the others count with their running means, so that on average
the constraint is that of all classes: a mean over those at hand would let the few that lag be outvoted in
most steps.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pareto_unlearn.device_copies import take_rows
from pareto_unlearn.trial.ranks import ALONE, Ranks

PROPORTIONAL, INTEGRAL, INTEGRAL_LIMIT, AVERAGE = 10.0, 0.05, 4.0, 0.97
"""Gains in units of e, the bound of the integral part, and the decay a step of each class's running mean."""


@dataclass(slots=True, eq=False)
class ClassWeights:
    """Running state of the weights; ``state`` holds everything that resuming needs.

    Args:
        num_classes: forget classes.
        device: of the losses.
        batch: forget images in a step.
    """

    num_classes: int
    device: torch.device
    batch: int
    state: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        zeros = torch.zeros(self.num_classes, device=self.device)
        self.state = {
            "class_mean": zeros.clone(),
            "class_one": zeros.clone(),
            "class_integral": zeros.clone(),
        }

    def update(
        self, e: Float[Tensor, " k"], present: Float[Tensor, " k"], level: float
    ) -> tuple[Float[Tensor, " k"], Float[Tensor, ""]]:
        """Take e of the classes in a mini-batch; return their weights, and what the others add.

        Args:
            e: own e of every class; any finite number where the class is not in the batch.
            present: 1 where the class is in the batch, else 0.
            level: the epsilon of this step, in e.

        Returns:
            Weights, zero for absent classes, and a constant: the weighted sum plus the constant has the
            expectation of the weighted mean over all classes seen so far. With all of them present the
            weights sum to one and the constant is 0.
        """
        mean, one, integral = (self.state[name] for name in ("class_mean", "class_one", "class_integral"))
        steps_between = max(self.num_classes / self.batch, 1.0)  # of two looks at one class
        seen = (1.0 - AVERAGE**steps_between) * present
        mean.add_(seen * (e - mean))
        one.add_(seen * (1.0 - one))
        known = one > 0
        estimate = mean / one.clamp(min=1e-12)
        lag = torch.where(known, estimate - level, torch.zeros_like(mean))
        integral.add_(INTEGRAL * (lag - lag.mean())).clamp_(-INTEGRAL_LIMIT, INTEGRAL_LIMIT)
        scores = (integral + PROPORTIONAL * lag).masked_fill(~known, -torch.inf)
        shares = torch.softmax(scores, dim=0)
        weights = shares * present * (known.sum() / present.sum())
        return weights, ((shares - weights) * estimate).sum()


def power_mean(
    values: Float[Tensor, " b"], power: float, mean: Callable[[Tensor], Tensor] = torch.mean
) -> Float[Tensor, ""]:
    """Return (mean of values^power)^(1/power); values below zero, and their gradients, count as zero."""
    powers = mean(values.clamp(min=0.0).pow(power))
    # A root's slope is infinite at zero, where every value is zero and nothing is left to do.
    return powers.clamp(min=torch.finfo(values.dtype).tiny).pow(1.0 / power)


def class_constraint(
    gap_of_rows: Callable[[Int[Tensor, " b"], int], Float[Tensor, " b"]],
    membership: Float[Tensor, "n k"],
    original_gap: Float[Tensor, " k"],
    order: Callable[[int], Int[Tensor, " b"]],
    weights: ClassWeights,
    level: Callable[[int], float],
    ranks: Ranks = ALONE,
) -> Callable[[int], Float[Tensor, ""]]:
    """Return the constraint at a step: the weighted mean over classes of their own e.

    Args:
        gap_of_rows: f1 - floor of the images at some rows, at a step, with gradients; of several ranks each
            has its part of the rows.
        membership: 1 where image n is of class k.
        original_gap: mean of f1 - floor of each class under the original model.
        order: rows of the mini-batch at a step.
        weights: updated once a step.
        level: epsilon at a step, in e.
        ranks: the processes that share a batch.
    """

    def constraint(step: int) -> Float[Tensor, ""]:
        rows = order(step)
        chosen = take_rows(membership, rows)
        counts = chosen.sum(dim=0)
        sums = ranks.total(chosen[ranks.part(len(rows))].T @ gap_of_rows(rows, step))
        e = sums / counts.clamp(min=1.0) / original_gap
        shares, rest = weights.update(e.detach(), (counts > 0).to(e.dtype), level(step))
        return (shares * e).sum() + rest

    return constraint
