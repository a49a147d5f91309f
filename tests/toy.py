"""Problems whose constrained optimum is known in closed form: what a solver's answer is compared with.

Everything is torch in the dtype asked for, and every random choice takes a generator.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from unchecked import unchecked_shapes

from pareto_unlearn.solver import EpsilonSolver

CHECKED_STEPS = 10
"""Steps of a long solve in which shapes are checked: later steps have arrays of the same shapes."""


def take_steps(
    solver: EpsilonSolver, constraint: Callable[[], Tensor], objective: Callable[[], Tensor], steps: int
) -> None:
    """Take so many steps; shapes are checked in the first of them."""
    for _ in range(min(steps, CHECKED_STEPS)):
        solver.step(constraint, objective)
    with unchecked_shapes():
        for _ in range(CHECKED_STEPS, steps):
            solver.step(constraint, objective)


@dataclass(frozen=True, slots=True)
class QuadraticPair:
    """f1 = (x - a)' A (x - a) and f2 = (x - b)' B (x - b), A and B symmetric positive definite.

    Attributes:
        matrix1: A, shape (d, d), the constraint's.
        center1: a, shape (d,), where f1 is 0.
        matrix2: B, the objective's.
        center2: b, where f2 is 0.
    """

    matrix1: Tensor
    center1: Tensor
    matrix2: Tensor
    center2: Tensor

    def f1(self, x: Tensor) -> Tensor:
        return (x - self.center1) @ self.matrix1 @ (x - self.center1)

    def f2(self, x: Tensor) -> Tensor:
        return (x - self.center2) @ self.matrix2 @ (x - self.center2)

    def stationary(self, multiplier: float) -> Tensor:
        """Return the x where grad f2 + multiplier * grad f1 = 0."""
        left = self.matrix2 + multiplier * self.matrix1
        right = self.matrix2 @ self.center2 + multiplier * self.matrix1 @ self.center1
        return torch.linalg.solve(left, right)

    def optimum(self, epsilon: float) -> tuple[Tensor, float]:
        """Return argmin f2 s.t. f1 <= epsilon and its multiplier, by bisection on the latter's logarithm."""
        if float(self.f1(self.center2)) <= epsilon:
            return self.center2, 0.0
        low, high = -40.0, 40.0
        for _ in range(100):
            middle = (low + high) / 2
            infeasible = float(self.f1(self.stationary(math.exp(middle)))) > epsilon
            low, high = (middle, high) if infeasible else (low, middle)
        return self.stationary(math.exp(high)), math.exp(high)

    def to(self, dtype: torch.dtype) -> "QuadraticPair":
        parts = (self.matrix1, self.center1, self.matrix2, self.center2)
        return QuadraticPair(*(part.to(dtype) for part in parts))

    def swapped(self) -> "QuadraticPair":
        """Return the same problem with the roles of f1 and f2 exchanged."""
        return QuadraticPair(self.matrix2, self.center2, self.matrix1, self.center1)


def spheres(dimension: int = 8, distance: float = 2.0) -> QuadraticPair:
    """Return f1 = |x - a|^2, f2 = |x - b|^2: the optimum is on the segment a..b, sqrt(epsilon) from a."""
    start = torch.linspace(-1.0, 1.0, dimension, dtype=torch.float64)
    way = torch.ones(dimension, dtype=torch.float64) / math.sqrt(dimension)
    eye = torch.eye(dimension, dtype=torch.float64)
    return QuadraticPair(eye, start, eye, start + distance * way)


def ellipsoids(dimension: int, condition: float, generator: torch.Generator) -> QuadraticPair:
    """Return a pair in general position: ``condition`` in both Hessians, each in a random frame of its own.

    Scaled so that each objective is 1 at the other's centre.
    """
    eigenvalues = torch.logspace(0.0, math.log10(condition), dimension, dtype=torch.float64)
    matrices = []
    for _ in range(2):
        frame, _ = torch.linalg.qr(
            torch.randn(dimension, dimension, dtype=torch.float64, generator=generator)
        )
        matrices.append(frame @ torch.diag(eigenvalues) @ frame.T)
    a, b = torch.randn(2, dimension, dtype=torch.float64, generator=generator)
    scaled = [matrix / ((b - a) @ matrix @ (b - a)) for matrix in matrices]
    return QuadraticPair(scaled[0], a, scaled[1], b)
