"""The direction that a rule makes of two gradients, without a solver around it."""

import torch
from torch import Tensor

from pareto_unlearn.solver import Coefficients, Rule
from pareto_unlearn.solver.flat import combine
from pareto_unlearn.solver.rules import compute_gram


def direction_of(rule: Rule, g1: Tensor, g2: Tensor, violation: float = 0.0) -> tuple[Tensor, Coefficients]:
    """Return the direction to *descend* along, in the dtype of ``g2``, and the coefficients of the rule.

    Without averages, the rule sees the inner products of these very gradients; ``violation`` is f1 - epsilon.
    """
    gram = compute_gram(g1, g2)
    found = rule(torch.full_like(gram.g11, violation), gram)
    return combine(g1, g2, found.c1, found.c2), found
