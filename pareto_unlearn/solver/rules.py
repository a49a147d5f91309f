"""Rules that choose a step's direction from the two gradients: their protocol, and those of Algorithm 1.

They take gradients and never see a model or a loss. The package's docstring explains the letters.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.solver.flat import combine, dot

NORM_FLOOR = 1e-3
"""The smallest |g2| / |g1| that a scaled control uses; smaller ratios are replaced by it."""


class Gram(NamedTuple):
    """The inner products of the two gradients, in float32 or float64; a rule sees nothing else of them."""

    g11: Float[Tensor, ""]
    g12: Float[Tensor, ""]
    g22: Float[Tensor, ""]


class Coefficients(NamedTuple):
    """A rule's choice: the direction c1 g1 + c2 g2, and the psi it required (0 for rules without a psi)."""

    c1: Float[Tensor, ""]
    c2: Float[Tensor, ""]
    psi: Float[Tensor, ""]

    @property
    def multiplier(self) -> Float[Tensor, ""]:
        """Eta = c1 / c2, the weight of the constraint relative to the objective's; 0 where c2 = 0."""
        return torch.where(self.c2 != 0, self.c1 / self.c2, torch.zeros_like(self.c1))


def compute_gram(g1: Float[Tensor, " p"], g2: Float[Tensor, " p"]) -> Gram:
    """Return the inner products of two gradients, in float32 or better."""
    return Gram(dot(g1, g1), dot(g1, g2), dot(g2, g2))


def multiplier(gram: Gram, psi: Float[Tensor, ""], stabiliser: float = 1e-7) -> Float[Tensor, ""]:
    """Return eta = max((psi - g1.g2) / (|g1|^2 + w), 0), the dual solution of Eq. 7; 0 where not finite."""
    eta = ((psi - gram.g12) / (gram.g11 + stabiliser)).clamp(min=0.0)
    return torch.where(torch.isfinite(eta), eta, torch.zeros_like(eta))


def direction(
    g1: Float[Tensor, " p"], g2: Float[Tensor, " p"], psi: float | Float[Tensor, ""], stabiliser: float = 1e-7
) -> tuple[Float[Tensor, " p"], Float[Tensor, ""]]:
    """Return the update direction g = g2 + eta g1 and eta (lines 8 and 9 of Algorithm 1).

    Args:
        g1: gradient of the constraint, any floating dtype; inner products are taken in float32 or better.
        g2: gradient of the objective.
        psi: value of the control function; g1 . g >= psi then holds, exactly for w = 0 and g1 != 0.
        stabiliser: w. With g1 = 0, or where psi or an inner product is not finite, the direction is g2.

    Returns:
        The direction to *descend* along (theta <- theta - mu g), in the dtype of ``g2``, and the multiplier.
    """
    gram = compute_gram(g1, g2)
    eta = multiplier(gram, torch.as_tensor(psi, dtype=gram.g11.dtype, device=g1.device), stabiliser)
    return torch.where(eta > 0, combine(g1, g2, eta, torch.ones_like(eta)), g2), eta


@runtime_checkable
class Rule(Protocol):
    """Chooses a direction in the plane of the gradients, from f1 - epsilon and their inner products.

    The norms and the angle of two gradients describe them fully up to a rotation, so every rule that mixes
    two gradients fits here. A rule never reads a value back to the host.
    """

    def __call__(self, violation: Float[Tensor, ""], gram: Gram, /) -> Coefficients:
        """Return the coefficients, not finite where an inner product is not unless the rule documents it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryControl:
    """Phase I: psi = alpha |g1|^delta drives the constraint to its infimum (section 4.3)."""

    alpha: float = 1.0
    delta: float = 2.0
    stabiliser: float = 1e-7

    def __call__(self, _violation: Float[Tensor, ""], gram: Gram, /) -> Coefficients:
        """Return (eta, 1, psi); the violation is not used."""
        psi = self.alpha * gram.g11 ** (self.delta / 2)
        return _constrained(gram, psi, self.stabiliser)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelControl:
    """Phase II: psi = beta (f1 - epsilon)^delta, with a factor of gradient norms where asked for.

    With ``squared`` the factor is |g1|^2, as in the experiments of arXiv:2408.01689 (section 5.4).

    With ``scaled`` it is |g1| |g2|. The direction then does not turn when
    f2 changes its unit, nor when f1 does and beta is divided by the same factor to the power delta; so beta
    depends on the unit of f1 alone. Where g2 vanishes, as it does at an original model whose own outputs are
    the target, |g2| counts as a thousandth of |g1|, so that psi does not vanish with it.
    """

    beta: float = 5.0
    delta: int = 1
    scaled: bool = False
    squared: bool = False
    stabiliser: float = 1e-7

    def __post_init__(self) -> None:
        if self.scaled and self.squared:
            raise ValueError("expected at most one of scaled and squared, found both")
        if self.delta < 1 or self.delta % 2 != 1:
            reason = "so that psi has the sign of f1 - epsilon"
            raise ValueError(f"delta must be an odd positive integer {reason}, found {self.delta}")

    def __call__(self, violation: Float[Tensor, ""], gram: Gram, /) -> Coefficients:
        """Return (eta, 1, psi)."""
        psi = self.beta * violation**self.delta
        if self.scaled:
            psi = psi * torch.maximum((gram.g11 * gram.g22).sqrt(), NORM_FLOOR * gram.g11)
        if self.squared:
            psi = psi * gram.g11
        return _constrained(gram, psi, self.stabiliser)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedMultiplier:
    """The weighted sum f2 + weight * f1: no constraint, as in a composite loss."""

    weight: float

    def __call__(self, _violation: Float[Tensor, ""], gram: Gram, /) -> Coefficients:
        """Return (weight, 1, 0)."""
        eta = torch.full_like(gram.g11, self.weight)
        return Coefficients(eta, torch.ones_like(eta), torch.zeros_like(eta))


def _constrained(gram: Gram, psi: Float[Tensor, ""], stabiliser: float) -> Coefficients:
    eta = multiplier(gram, psi, stabiliser)
    return Coefficients(eta, torch.ones_like(eta), psi)
