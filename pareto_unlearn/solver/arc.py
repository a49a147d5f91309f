"""Published rules for two gradients, all of them directions in the plane of g1 and g2.

That plane has one degree of freedom, the angle: with theta = pi - angle(g1, g2) and the unit vectors
u1 = g1 / |g1| and u_perp = (g2 without its component along g1) / its norm, the directions

    d(gamma) = sin(gamma theta) u1 + cos(gamma theta) u_perp,   0 <= gamma <= 1,

are those that raise neither loss to first order: gamma = 0 does not change f1, gamma = 1 does not change f2,
and with gamma below 0 or above 1 one of the losses rises. The rules differ in gamma and in the length of the
step. They compute a coefficient for each gradient from the same three inner products as the rules of
Algorithm 1, so they run in ``EpsilonSolver`` at the same cost per step.

With averages (``UpdateSettings.average``) the coefficients are computed from the averaged gradients and
multiply the gradients of the mini-batch. So the properties of a rule (orthogonality, equal gains) hold for
the averages, not for each batch.

A solve may start at an optimum of the objective, where g2 = 0 to the last bit. Every rule is finite there,
and its docstring gives the direction. Parallel and opposite gradients span no plane: the component across
both is left out, since it changes neither loss to first order and its direction would be rounding alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pareto_unlearn.solver.rules import Coefficients, Gram, Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Pivot:
    """CUP (arXiv:2510.19226): the direction d(gamma), with the length of the mean gradient.

    d = |g1 + g2| / 2 (sin(gamma theta) u1 + cos(gamma theta) u_perp).

    Where g2 = 0, d = g1 / 2; where g1 = 0, d = g2 / 2: the length stays, the other gradient decides the
    direction. Parallel: d = |g1 + g2| / 2 sin(gamma pi) u1. Opposite: d = 0, as no direction lowers both.
    """

    gamma: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma <= 1.0:
            raise ValueError(
                f"gamma must lie in 0 to 1, where neither loss rises to first order, found {self.gamma}"
            )

    def __call__(self, _violation: Float[Tensor, ""], gram: Gram, /) -> Coefficients:
        """Return the coefficients; the violation is not used."""
        cosine = _cosine(gram)
        square = (1.0 - cosine) * (1.0 + cosine)
        spans_plane = square > _collinear(gram)
        sine = torch.where(spans_plane, square.sqrt(), 0.0)
        angle = self.gamma * torch.atan2(sine, -cosine)
        across = torch.where(spans_plane, torch.cos(angle) / sine, 0.0)
        length = (gram.g11 + 2.0 * gram.g12 + gram.g22).clamp(min=0.0).sqrt() / 2.0
        c1 = length / gram.g11.sqrt() * (torch.sin(angle) - across * cosine)
        c2 = length / gram.g22.sqrt() * across
        half = torch.full_like(cosine, 0.5)
        return _or_alone(gram, (c1, c2), (half, half))


@dataclass(frozen=True, slots=True, kw_only=True)
class NashBargaining:
    """MUNBa (arXiv:2411.15537) in closed form: both losses gain the same cosine.

    d = c1 g1 + c2 g2 with ci = 1 / (|gi| sqrt(1 + cos)). For all gradients gamma = 1/2 and |d| = sqrt(2).

    Where one gradient is 0, d is sqrt(2) times the unit vector of the other; where both are 0, d = 0.
    Opposite: d = 0, since no direction lowers both losses.
    """

    def __call__(self, _violation: Float[Tensor, ""], gram: Gram, /) -> Coefficients:
        """Return the coefficients; the violation is not used."""
        room = 1.0 + _cosine(gram)
        scale = torch.where(room > _collinear(gram), room.rsqrt(), 0.0)
        unit1, unit2 = gram.g11.rsqrt(), gram.g22.rsqrt()
        both, alone = (scale * unit1, scale * unit2), (math.sqrt(2.0) * unit1, math.sqrt(2.0) * unit2)
        return _or_alone(gram, both, alone)


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimumNorm:
    """MGDA: the shortest weighted mean of g1 and g2, d = w g1 + (1 - w) g2 with 0 <= w <= 1.

    w = (|g2|^2 - g1.g2) / |g1 - g2|^2, clipped; both losses gain at least |d|^2. Where one gradient is 0, d =
    0: a point where one of the losses cannot be improved is stationary by definition, so a solve that starts
    at an optimum of the objective never leaves it. Opposite: d = 0. Equal: d is that gradient (w = 1/2).
    """

    def __call__(self, _violation: Float[Tensor, ""], gram: Gram, /) -> Coefficients:
        """Return the coefficients; the violation is not used."""
        distance = gram.g11 - 2.0 * gram.g12 + gram.g22
        share = ((gram.g22 - gram.g12) / distance).clamp(0.0, 1.0)
        share = torch.where(_is_zero(distance), 0.5, share)
        return Coefficients(share, 1.0 - share, torch.zeros_like(share))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictProjection:
    """PCGrad: the sum of the gradients, each without its component against the other.

    d = (g1 - g1.g2 / |g2|^2 g2) + (g2 - g1.g2 / |g1|^2 g1) where g1.g2 < 0, else g1 + g2. With two losses the
    random order of the published algorithm makes no difference. Where one gradient is 0, d is the other.
    Opposite: d = 0.
    """

    def __call__(self, _violation: Float[Tensor, ""], gram: Gram, /) -> Coefficients:
        """Return the coefficients; the violation is not used."""
        conflict = gram.g12.clamp(max=0.0)
        c1 = 1.0 - _ratio(conflict, gram.g11)
        return Coefficients(c1, 1.0 - _ratio(conflict, gram.g22), torch.zeros_like(c1))


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicBarrier:
    """EraseDiff (arXiv:2401.05779), the dynamic barrier of BOME: d = g2 + max(eta - g1.g2 / |g1|^2, 0) g1.

    The same direction as ``BoundaryControl(alpha=eta, delta=2)`` without a stabiliser. With ``cosine`` the
    cosine of the gradients replaces the ratio g1.g2 / |g1|^2, as in the published code; g1 . d >= eta |g1|^2
    need not hold then.

    Here g1 is the gradient of the whole forget loss: the published inner loop only subtracts from that loss
    an estimate of its minimum, which is a constant. Where g2 = 0, d = eta g1; where g1 = 0, d = g2. Opposite:
    with the ratio d = eta g1, since g2 cancels; with the cosine d = g2 + (eta + 1) g1.
    """

    eta: float
    cosine: bool = False

    def __call__(self, _violation: Float[Tensor, ""], gram: Gram, /) -> Coefficients:
        """Return (multiplier, 1, psi); the violation is not used, and with ``cosine`` psi is 0."""
        agreement = _cosine(gram) if self.cosine else _ratio(gram.g12, gram.g11)
        weight = (self.eta - agreement).clamp(min=0.0)
        psi = torch.zeros_like(weight) if self.cosine else self.eta * gram.g11
        return Coefficients(weight, torch.ones_like(weight), psi)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orthogonal:
    """Bloop (arXiv:2402.02998): the objective's gradient, plus the part of the constraint's orthogonal to it.

    d = g2 + weight (g1 - (g1.g2 / |g2|^2) g2), so d.g2 = |g2|^2 for every constraint. The published method
    projects on a running average of g2, because the noise of mini-batches spoils the projection. With
    averages the coefficient g1.g2 / |g2|^2 is computed from both averaged gradients: the mean direction is
    orthogonal as published, with the mean of g1 in the place of its mini-batch.

    Where g2 = 0, nothing is projected out: d = weight g1. Where g1 = 0, or the gradients are parallel or
    opposite: d = g2.
    """

    weight: float = 1.0

    def __call__(self, _violation: Float[Tensor, ""], gram: Gram, /) -> Coefficients:
        """Return the coefficients; the violation is not used."""
        c1 = torch.full_like(gram.g11, self.weight)
        return Coefficients(c1, 1.0 - self.weight * _ratio(gram.g12, gram.g22), torch.zeros_like(c1))


RIVALS: dict[str, Callable[[float], Rule]] = {
    "cup": lambda weight: Pivot(gamma=weight),
    "munba": lambda _: NashBargaining(),
    "mgda": lambda _: MinimumNorm(),
    "pcgrad": lambda _: ConflictProjection(),
    "erasediff": lambda weight: DynamicBarrier(eta=weight),
    "orthogonal": lambda weight: Orthogonal(weight=weight),
}
"""By the name of a method in the catalogue, from the weight of a trial to its rule."""


def _or_alone(
    gram: Gram,
    both: tuple[Float[Tensor, ""], Float[Tensor, ""]],
    alone: tuple[Float[Tensor, ""], Float[Tensor, ""]],
) -> Coefficients:
    """Return ``both``, or where a gradient is 0: 0 for it, and ``alone`` for the other. psi is 0."""
    zero1, zero2, nothing = _is_zero(gram.g11), _is_zero(gram.g22), torch.zeros_like(gram.g11)
    c1 = torch.where(zero1, nothing, torch.where(zero2, alone[0], both[0]))
    c2 = torch.where(zero2, nothing, torch.where(zero1, alone[1], both[1]))
    return Coefficients(c1, c2, nothing)


def _cosine(gram: Gram) -> Float[Tensor, ""]:
    """Return the cosine of the two gradients, clamped to -1 to 1; 0 where one of them is 0."""
    # A product of roots, because the product of the squares underflows at norms of 1e-10 in float32.
    cosine = (gram.g12 / (gram.g11.sqrt() * gram.g22.sqrt())).clamp(-1.0, 1.0)
    return torch.where(_is_zero(gram.g11) | _is_zero(gram.g22), 0.0, cosine)


def _ratio(product: Float[Tensor, ""], square: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return product / square, or 0 where the square is 0."""
    return torch.where(_is_zero(square), 0.0, product / square)


def _is_zero(square: Float[Tensor, ""]) -> Bool[Tensor, ""]:
    """Tell whether a square is 0 or too small to divide by."""
    return square <= torch.finfo(square.dtype).tiny


def _collinear(gram: Gram) -> float:
    """Return the 1 - cos^2 below which rounding decides the angle: in float32, 0.2 degrees from a line."""
    return 64.0 * torch.finfo(gram.g11.dtype).eps
