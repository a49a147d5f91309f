"""The path: one solve whose epsilon goes down fast, stays low, and then rises slowly, and its checkpoints.

At a finite budget f2 falls with every step, whatever epsilon is. A path that only descends therefore trains
its lowest epsilon best, and that end dominates everything it passed before. With epsilon rising at the end,
every later checkpoint has a larger f1 and a smaller f2 than those before it, so the bank of checkpoints
spans the whole front.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

ARRIVED_AFTER = 0.85
"""Share of the descent after which epsilon is at its lowest; f1 follows in the rest."""
RISEN_AFTER = 0.95
"""Share of the rise after which epsilon is at its highest."""
WARM_UP = 0.025
"""Share of the steps during which the step size rises from zero: Adam's first steps are of full size."""
RATE_OF_RISE = (0.35, 0.15)
"""Step size at the beginning and at the end of the rise, as a share of the largest.

It must not be 0 at the end: nothing would raise f1 then.
"""
TURN = 2.0
"""Where the rise begins, as a multiple of the lowest epsilon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathPlan:
    """The epsilon and the step size of every step of a path, and the steps after which it takes checkpoints.

    Epsilon is in units of f1's own range: 1 for the original, 0 for the floor. There are three parts:

    - the descent, ``descent`` of the steps: from 1 down to ``end``, along a line;
    - the stay, ``stay`` of the steps: from ``end`` to ``TURN`` times that, geometrically;
    - the rise, all other steps: from there to ``top``, along a parabola.

    ``horizon`` is the share of the steps that the average of the weights looks back over. ``checkpoints`` is
    the largest number of checkpoints; none is taken during the descent.
    """

    steps: int
    end: float = 0.015
    top: float = 0.85
    descent: float = 0.15
    stay: float = 0.3
    horizon: float = 0.015
    checkpoints: int = 30

    @property
    def weight_average(self) -> float:
        """The decay of the average of the weights; 0 for a path too short for an average."""
        return max(1.0 - 1.0 / (self.horizon * self.steps), 0.0)

    def epsilon_at(self, step: int) -> float:
        """Return the epsilon of a step, counted from 0."""
        low, high = self._turns()
        taken, turn = step + 1, TURN * self.end
        if taken <= low:
            return max(1.0 + (self.end - 1.0) * taken / (ARRIVED_AFTER * low), self.end)
        if taken <= high:
            return self.end * math.pow(TURN, (taken - low) / (high - low))
        share = min((taken - high) / (RISEN_AFTER * (self.steps - high)), 1.0)
        return turn + (self.top - turn) * share**2

    def rate_at(self, step: int) -> float:
        """Return the step size of a step, counted from 0, as a share of the largest."""
        low, high = self._turns()
        first, last = RATE_OF_RISE
        if step < low:
            return min((step + 1) / max(WARM_UP * self.steps, 1.0), 1.0)
        if step < high:
            return 1.0 + (first - 1.0) * (step - low) / (high - low)
        return first + (last - first) * (step - high) / max(self.steps - 1 - high, 1)

    def capture_steps(self) -> tuple[int, ...]:
        """Return the steps after which to take checkpoints; the last step is always one of them.

        They are spread evenly over the stay and the rise, in parts of 2 to 3: f2 changes fastest at the stay.
        """
        low, high = self._turns()
        early = min(max(round(0.4 * self.checkpoints), 1), self.checkpoints - 1)
        late = self.checkpoints - early
        stay = (low + (high - low) * (index + 1) / early for index in range(early))
        rise = (high + (self.steps - high) * (index + 1) / late for index in range(late))
        return tuple(sorted({max(round(step), 1) for step in (*stay, *rise)}))

    def _turns(self) -> tuple[int, int]:
        """Return the number of steps after which the stay begins and after which it ends."""
        low = min(max(round(self.descent * self.steps), 1), self.steps)
        return low, min(max(round((self.descent + self.stay) * self.steps), low + 1), self.steps)


@runtime_checkable
class Costed(Protocol):
    """Anything with what epsilon bounds and an f2."""

    @property
    def level(self) -> float:
        """What epsilon bounds."""
        ...

    @property
    def f2(self) -> float:
        """The objective."""
        ...


Member = TypeVar("Member", bound=Costed)


def prune(members: Iterable[Member]) -> list[Member]:
    """Return the finite members that no other dominates, by rising level; of equal members the first."""
    finite = [member for member in members if math.isfinite(member.level) and math.isfinite(member.f2)]
    kept: list[Member] = []
    for member in sorted(finite, key=lambda member: (member.level, member.f2)):
        if not kept or member.f2 < kept[-1].f2:
            kept.append(member)
    return kept
