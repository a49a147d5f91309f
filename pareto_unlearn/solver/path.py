"""The path: one solve whose epsilon goes down fast, stays low, and then rises slowly, and its checkpoints.

At a finite budget f2 falls with every step, whatever epsilon is. A path that only descends therefore trains
its lowest epsilon best, and that end dominates everything it passed before. With epsilon rising at the end,
every later checkpoint has a larger f1 and a smaller f2 than those before it, so the bank of checkpoints
spans the whole front.

Where forgetting destroys what is to be kept, as where the forget images are a random half of all, a descent
that goes on regardless leaves nothing to recover from. So the descent waits while f2 is large.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.solver.stepping import StepLoss

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
WAIT_UNTIL = 0.8
"""Share of the steps after which it waits no longer."""
LOOK_EVERY, LOOK_BACK = 0.01, 0.004
"""Shares of the steps: from one look at f2 to the next, and what its average looks back over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathPlan:
    """The epsilon and the step size of a path over time, and the times at which it takes checkpoints.

    Time is counted in steps. A path that never waits is at time t at step t, counted from 0; ``PathClock``
    tells where one that waited is.

    Epsilon is in units of f1's own range: 1 for the original, 0 for the floor. There are three parts:

    - the descent, ``descent`` of the time: from 1 down to ``end``, along a line;
    - the stay, ``stay`` of the time: from ``end`` to ``TURN`` times that, geometrically;
    - the rise, the rest of it: from there to ``top``, along a parabola.

    The descent waits while f2, averaged, is above ``wait_above``, a share of the variance of the original's
    outputs. ``horizon`` is the share of the steps that the average of the weights looks back over.
    ``checkpoints`` is the largest number of checkpoints; none is taken during the descent.
    """

    steps: int
    end: float = 0.015
    top: float = 0.85
    descent: float = 0.15
    stay: float = 0.3
    wait_above: float = 0.12
    horizon: float = 0.015
    checkpoints: int = 30

    @property
    def weight_average(self) -> float:
        """The decay of the average of the weights; 0 for a path too short for an average."""
        return max(1.0 - 1.0 / (self.horizon * self.steps), 0.0)

    def epsilon_at(self, time: int | float) -> float:
        """Return the epsilon of a step."""
        low, high = self._turns()
        taken, turn = time + 1, TURN * self.end
        if taken <= low:
            return max(1.0 + (self.end - 1.0) * taken / (ARRIVED_AFTER * low), self.end)
        if taken <= high:
            return self.end * math.pow(TURN, (taken - low) / (high - low))
        share = min((taken - high) / (RISEN_AFTER * (self.steps - high)), 1.0)
        return turn + (self.top - turn) * share**2

    def rate_at(self, time: int | float) -> float:
        """Return the step size of a step, as a share of the largest."""
        low, high = self._turns()
        first, last = RATE_OF_RISE
        if time < low:
            return min((time + 1) / max(WARM_UP * self.steps, 1.0), 1.0)
        if time < high:
            return 1.0 + (first - 1.0) * (time - low) / (high - low)
        return first + (last - first) * (time - high) / max(self.steps - 1 - high, 1)

    def may_wait_at(self, time: int | float) -> bool:
        """Tell whether epsilon is on its way down, and the step size no longer on its way up."""
        low, _ = self._turns()
        return WARM_UP * self.steps <= time + 1 < ARRIVED_AFTER * low

    def capture_times(self) -> tuple[int, ...]:
        """Return how many steps' time has passed at each checkpoint; at the last it is all of it.

        They are spread evenly over the stay and the rise, in parts of 2 to 3: f2 changes fastest at the stay.
        """
        low, high = self._turns()
        early = min(max(round(0.4 * self.checkpoints), 1), self.checkpoints - 1)
        late = self.checkpoints - early
        stay = (low + (high - low) * (index + 1) / early for index in range(early))
        rise = (high + (self.steps - high) * (index + 1) / late for index in range(late))
        return tuple(sorted({max(round(step), 1) for step in (*stay, *rise)}))

    def _turns(self) -> tuple[int, int]:
        """Return the times at which the stay begins and at which it ends."""
        low = min(max(round(self.descent * self.steps), 1), self.steps)
        return low, min(max(round((self.descent + self.stay) * self.steps), low + 1), self.steps)


class PathClock:
    """Tells where on its plan a path is: its time stands still while the descent waits, and catches up then.

    It waits until ``WAIT_UNTIL`` of the steps at most. After a wait, time passes evenly over the steps that
    are left, so a path always ends at the end of its plan. Without a wait, time is the step.

    Args:
        plan: what happens at which time.
        variance: of the original's outputs, in the unit of f2.
        device: of f2. The clock reads it once in ``LOOK_EVERY`` of the steps.
    """

    def __init__(self, plan: PathPlan, variance: float = 1.0, device: torch.device | str = "cpu") -> None:
        self.plan, self._wait_above = plan, plan.wait_above * variance
        self._look_every = max(round(LOOK_EVERY * plan.steps), 1)
        self._weight = 1.0 / max(LOOK_BACK * plan.steps, 1.0)
        self._marks = plan.capture_times()
        self._times = torch.zeros(plan.steps, dtype=torch.float64)
        self._mean, self._waits = torch.zeros((), device=device), torch.zeros((), dtype=torch.bool)

    @property
    def state(self) -> dict[str, Tensor]:
        """All that a resume must restore, in place."""
        return {"path_times": self._times, "path_f2": self._mean, "path_waits": self._waits}

    def watch(self, retain: StepLoss) -> StepLoss:
        """Return f2 that moves the clock: each step, once, in turn. The next step's time is known then."""

        def compute(step: int) -> Float[Tensor, ""]:
            value = retain(step)
            self._move(step, value.detach())
            return value

        return compute

    def epsilon_at(self, step: int) -> float:
        """Return the epsilon of a step, counted from 0, that is at hand or past; beyond all, of the last."""
        return self.plan.epsilon_at(self._time(step))

    def rate_at(self, step: int) -> float:
        """Return the step size of such a step, as a share of the largest."""
        return self.plan.rate_at(self._time(step))

    def is_due(self, taken: int) -> bool:
        """Tell whether a checkpoint is due after the steps taken so far."""
        passed = self._time(taken - 1) + 1.0
        before = self._time(taken - 2) + 1.0 if taken > 1 else 0.0
        return any(before < mark <= passed for mark in self._marks)

    def _time(self, step: int) -> float:
        return float(self._times[min(step, self.plan.steps - 1)])

    def _move(self, step: int, f2: Float[Tensor, ""]) -> None:
        # The solver skips a step whose loss is not finite; the average would never recover from it.
        f2 = torch.where(torch.isfinite(f2), f2.to(self._mean.dtype), self._mean)
        self._mean.lerp_(f2, self._weight)
        time, last = self._time(step), self.plan.steps - 1
        if (step + 1) % self._look_every == 0:
            may_wait = self.plan.may_wait_at(time) and step + 1 < WAIT_UNTIL * self.plan.steps
            self._waits.fill_(may_wait and float(self._mean) > self._wait_above)
        if step < last:
            passing = 0.0 if self._waits else (last - time) / (last - step)
            self._times[step + 1] = time + passing


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
