"""When a solve ends, and the loop that steps until then."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.solver.stepping import EpsilonSolver, StepRow


class Outcome(StrEnum):
    """Why a solve ended."""

    CONVERGED = "converged: the smoothed objectives stopped changing"
    STEP_LIMIT = "step limit reached"
    STILL_MOVING = "step limit reached while the constraint was still changing by over 1 % of its unit"
    DIVERGED = "diverged: losses or gradients were not finite"


@dataclass(slots=True, kw_only=True)
class StopRule:
    """Decides from logged steps whether to stop; works on means over windows of steps.

    ``units`` are what a change of the constraint and of the objective is measured in. Converged: both means
    changed by less than ``tolerance`` from one window to the next while epsilon stood still. Still moving: at
    the step limit the mean of the constraint changed by more than ``moving`` and by more than noise explains.
    Diverged: no step of a whole window, or of a shorter solve, was finite.
    """

    window: int = 50
    tolerance: float = 1e-4
    moving: float = 0.01
    units: tuple[float, float] = (1.0, 1.0)
    _recent: list[StepRow] = field(default_factory=list, init=False, repr=False)

    def update(self, rows: list[StepRow]) -> Outcome | None:
        """Take new rows; return the outcome when the solve should stop now."""
        self._recent = (self._recent + rows)[-2 * self.window :]
        last = self._recent[-self.window :]
        if len(last) == self.window and not any(row.finite for row in last):
            return Outcome.DIVERGED
        change = self._changes()
        if change is not None and max(change) < self.tolerance:
            return Outcome.CONVERGED
        return None

    def at_limit(self) -> Outcome:
        """Return the outcome when the steps are used up; a change within three standard errors is noise."""
        if self._recent and not any(row.finite for row in self._recent):
            return Outcome.DIVERGED
        change, noise = self._changes(), self._noise_of_f1()
        moving = change is not None and change[0] > max(self.moving, 3.0 * noise)
        return Outcome.STILL_MOVING if moving else Outcome.STEP_LIMIT

    def _changes(self) -> tuple[float, float] | None:
        """Return how far the means of f1 and f2 moved between the last two windows, or None without both."""
        halves = self._halves()
        if halves is None:
            return None
        before, after = ([statistics.fmean(row[k] for row in part) for k in (1, 2)] for part in halves)
        return abs(after[0] - before[0]) / self.units[0], abs(after[1] - before[1]) / self.units[1]

    def _noise_of_f1(self) -> float:
        """Return the standard error of the difference of the two windows' means of f1."""
        halves = self._halves()
        if halves is None:
            return 0.0
        errors = [statistics.variance([row.f1 for row in part]) / len(part) for part in halves]
        return math.sqrt(sum(errors)) / self.units[0]

    def _halves(self) -> tuple[list[StepRow], list[StepRow]] | None:
        """Return the finite rows of the last two windows; None before both exist under a steady epsilon."""
        recent = self._recent
        if len(recent) < 2 * self.window or recent[0].epsilon != recent[-1].epsilon:
            return None
        before, after = (
            [row for row in part if row.finite] for part in (recent[: self.window], recent[self.window :])
        )
        return (before, after) if min(len(before), len(after)) >= 2 else None


def solve(
    solver: EpsilonSolver,
    constraint: Callable[[int], Float[Tensor, ""]],
    objective: Callable[[int], Float[Tensor, ""]],
    *,
    steps: int,
    stop: StopRule | None = None,
    on_rows: Callable[[list[StepRow]], None] = lambda _rows: None,
    flush_every: int = 50,
    pauses: Sequence[int] = (),
) -> Outcome:
    """Step until the rule says stop or ``steps`` are done; continues from the solver's own step count.

    Args:
        solver: fresh, or loaded from a state.
        constraint: loss of the constraint at a step.
        objective: loss of the objective at a step.
        steps: in all, those before a resume included.
        stop: the stopping rule; None for the default one.
        on_rows: called with the logged rows every ``flush_every`` steps and at the end.
        flush_every: steps between two host synchronisations.
        pauses: numbers of steps after which there is one besides, in rising order.
    """
    stop = stop or StopRule()
    while solver.step_count < steps:
        pause = next((step for step in pauses if step > solver.step_count), steps)
        for _ in range(min(flush_every, steps - solver.step_count, pause - solver.step_count)):
            step = solver.step_count
            solver.step(lambda step=step: constraint(step), lambda step=step: objective(step))  # type: ignore[misc]
        rows = solver.flush()
        outcome = stop.update(rows)
        on_rows(rows)
        if outcome is not None:
            return outcome
    return stop.at_limit()
