"""The interface of a problem of the fronts benchmark: all that a method sees of it.

Losses are scale-free: e = (f1 - floor) / (f1(original) - floor) and FVU = f2 / variance of the original's
outputs on the retain images. Every problem starts at the original, (e, FVU) = (1, 0). This module knows no
method and no score.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from pareto_unlearn.solver import Level

StepLoss = Callable[[int], Tensor]
Losses = tuple[StepLoss, StepLoss]
"""Constraint (forget) and objective (retain) of the mini-batch at a step."""


class FrontProblem(Protocol):
    """What a method may know of a problem.

    ``original`` is the flat start, ``rate`` the base learning rate of Adam and ``plain_rate`` that of plain
    steps. ``kinds`` names the losses that have a meaning here, "scaled" always among them.
    """

    name: str
    parameters: list[nn.Parameter]
    original: Tensor
    rate: float
    plain_rate: float
    splits: tuple[str, ...]
    kinds: frozenset[str]

    @property
    def cost_of_measuring(self) -> float:
        """Gradient pairs that one call of ``measure`` on the training split costs."""
        ...

    def losses(self, kind: str, seed: int) -> Losses:
        """Return the losses of a kind; their mini-batches are a function of seed and step alone."""
        ...

    def bounded(self, seed: int, level: Level) -> StepLoss:
        """Return what epsilon bounds by default at a step, in e; ``level`` is its epsilon."""
        ...

    def measure(self, values: Tensor, split: str) -> tuple[float, float]:
        """Return exact (e, FVU) of flat values over a whole split; it overwrites the parameters."""
        ...


def load_values(parameters: list[nn.Parameter], values: Tensor) -> None:
    """Copy a flat vector into parameters, in place: buffers that a solver tied them to stay tied."""
    parts = values.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.data.copy_(part.view_as(parameter))


def read_values(parameters: list[nn.Parameter]) -> Tensor:
    """Return a copy of parameters as one flat vector."""
    return torch.cat([parameter.detach().flatten() for parameter in parameters])
