"""The path: one slow descent of epsilon from the original model to the floor, and its bank of checkpoints.

A solve whose epsilon falls linearly from the original's f1 to the floor passes every compromise on its way,
and the running average of its weights stays close to the front. The checkpoints taken on the way form a bank:
a solve for one epsilon that starts from the nearest checkpoint, with Adam's moments, needs a fraction of the
steps that it would need from the original model.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class PathPlan:
    """The epsilon of every step of a path, and the steps after which checkpoints are taken.

    ``end`` is the epsilon at which the descent ends. ``hold`` is the share of the steps that stay there, so
    that f1 and the average of the weights arrive too; the step size should fall to zero meanwhile.
    ``horizon`` is the share of the steps that the average of the weights looks back over. ``checkpoints`` is
    the largest number of checkpoints.
    """

    steps: int
    end: float
    hold: float = 0.2
    horizon: float = 0.03
    checkpoints: int = 40

    @property
    def weight_average(self) -> float:
        """The decay of the average of the weights; 0 for a path too short for an average."""
        return max(1.0 - 1.0 / (self.horizon * self.steps), 0.0)

    def ramp(self, start: float) -> tuple[float, int]:
        """Return the ``ramp`` argument of ``EpsilonSolver`` for a descent that begins at ``start``."""
        return start, round((1.0 - self.hold) * self.steps)

    def capture_steps(self) -> tuple[int, ...]:
        """Return the steps after which to take checkpoints: dense at both ends, where f2 changes fastest.

        They lie at the extrema of a Chebyshev polynomial; the last step is always one of them.
        """
        angles = (math.pi * index / self.checkpoints for index in range(1, self.checkpoints + 1))
        return tuple(sorted({max(round(self.steps * (1.0 - math.cos(angle)) / 2.0), 1) for angle in angles}))


@runtime_checkable
class Costed(Protocol):
    """Anything with an f1 and an f2."""

    @property
    def f1(self) -> float:
        """The constraint."""
        ...

    @property
    def f2(self) -> float:
        """The objective."""
        ...


Member = TypeVar("Member", bound=Costed)


def prune(members: Iterable[Member]) -> list[Member]:
    """Return the finite members that no other member dominates, by rising f1; of equal members the first."""
    finite = [member for member in members if math.isfinite(member.f1) and math.isfinite(member.f2)]
    kept: list[Member] = []
    for member in sorted(finite, key=lambda member: (member.f1, member.f2)):
        if not kept or member.f2 < kept[-1].f2:
            kept.append(member)
    return kept


def nearest(members: Sequence[Member], epsilon: float) -> Member:
    """Return the member whose f1 is closest to epsilon; of two equally close members the lower.

    Raises:
        ValueError: there are no members.
    """
    if not members:
        raise ValueError("expected a bank with at least one checkpoint, found an empty one")
    return min(members, key=lambda member: (abs(member.f1 - epsilon), member.f1))
