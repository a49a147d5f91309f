"""Two ellipsoids, whose front is known exactly."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from front_problems.problem import Losses, StepLoss
from pareto_unlearn.data import seeded_generator
from pareto_unlearn.solver import Level

DIMENSION, CONDITION, NOISE_SHARE, NOISE_STEPS = 20, 30.0, 0.2, 8192


@dataclass(frozen=True, slots=True, eq=False)
class EllipsoidProblem:
    """f1 = (x - a)' A (x - a), f2 = (x - b)' B (x - b), each 1 at the other's centre; a ``FrontProblem``.

    The original is b. A step sees f1 + n . (x - a) and f2 + m . (x - b) with fresh Gaussian n and m: what
    mini-batches of samples with centres of their own would give. Their length is a fifth of that of grad f1
    at the original, as batches of 16 have it on the digits (.16 to .19).
    """

    matrices: tuple[Tensor, Tensor]
    centers: tuple[Tensor, Tensor]
    parameters: list[nn.Parameter]
    original: Tensor
    name: str = "closed_form"
    rate: float = 0.06
    plain_rate: float = 0.4
    splits: tuple[str, ...] = ("train",)
    kinds: frozenset[str] = frozenset(("scaled",))
    cost_of_measuring: float = 0.0

    def value(self, which: int, x: Tensor) -> Tensor:
        """Return f1 (0) or f2 (1)."""
        way = x - self.centers[which]
        return way @ self.matrices[which] @ way

    def losses(self, kind: str, seed: int) -> Losses:
        """Return noisy f1 and f2; only "scaled" has a meaning."""
        if kind not in self.kinds:
            raise ValueError(f"closed_form has the losses {', '.join(self.kinds)}, found {kind!r}")
        start = 2.0 * self.matrices[0] @ (self.original - self.centers[0])
        scale = NOISE_SHARE * float(start.norm()) / math.sqrt(DIMENSION)
        shape, generator = (NOISE_STEPS, 2, DIMENSION), seeded_generator(seed, 61)
        noise = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        x = self.parameters[0]

        def loss(which: int, step: int) -> Tensor:
            return self.value(which, x) + noise[step % NOISE_STEPS, which] @ (x - self.centers[which])

        return lambda step: loss(0, step), lambda step: loss(1, step)

    def bounded(self, seed: int, _: Level) -> StepLoss:
        """Return what epsilon bounds: noisy f1, as there are no classes."""
        return self.losses("scaled", seed)[0]

    def measure(self, values: Tensor, split: str) -> tuple[float, float]:  # noqa: ARG002 - there is one split
        """Return exact (f1, f2): floor 0, f1(original) = 1, f2 at the minimiser of f1 = 1."""
        return float(self.value(0, values)), float(self.value(1, values))

    def optimum(self, epsilon: float) -> Tensor:
        """Return argmin f2 s.t. f1 <= epsilon, by bisection on the logarithm of its multiplier."""
        low, high = -40.0, 40.0
        for _ in range(100):
            middle = (low + high) / 2
            infeasible = float(self.value(0, self._stationary(math.exp(middle)))) > epsilon
            low, high = (middle, high) if infeasible else (low, middle)
        return self._stationary(math.exp(high))

    def front(self, points: int = 200) -> list[tuple[float, float]]:
        """Return the exact front at evenly spaced epsilons in (0, 1)."""
        epsilons = ((index + 0.5) / points for index in range(points))
        return [self.measure(self.optimum(epsilon), "train") for epsilon in epsilons]

    def _stationary(self, multiplier: float) -> Tensor:
        (first, second), (a, b) = self.matrices, self.centers
        return torch.linalg.solve(second + multiplier * first, second @ b + multiplier * first @ a)


def build_closed_form(_work: Path) -> EllipsoidProblem:
    """Return two random ellipsoids in 20 dimensions, condition 30, each in a random frame of its own."""
    generator = seeded_generator(0, 60)
    eigenvalues = torch.logspace(0.0, math.log10(CONDITION), DIMENSION, dtype=torch.float64)
    frames = [
        torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, dtype=torch.float64, generator=generator))[0]
        for _ in range(2)
    ]
    a, b = torch.randn(2, DIMENSION, dtype=torch.float64, generator=generator)
    first, second = (frame @ torch.diag(eigenvalues) @ frame.T for frame in frames)
    scaled = [matrix / ((b - a) @ matrix @ (b - a)) for matrix in (first, second)]
    return EllipsoidProblem(
        matrices=(scaled[0], scaled[1]),
        centers=(a, b),
        parameters=[nn.Parameter(b.clone())],
        original=b.clone(),
    )
