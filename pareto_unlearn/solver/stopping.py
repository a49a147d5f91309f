"""The rule that ends a solve, and the loop that steps until then."""

import math
import statistics
from collections.abc import Callable
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
    """Decides from logged steps whether to stop; it compares means over windows of steps.

    A change of the constraint and of the objective is measured in ``units``. Converged: both means changed by
    less than ``tolerance`` from one window to the next while epsilon did not change. Still moving: at the
    step limit the mean of the constraint changed by more than ``moving`` and by more than its noise.
    Diverged: no step of a whole window was finite, or no step at all of a solve shorter than a window.
    """

    window: int = 50
    tolerance: float = 1e-4
    moving: float = 0.01
    units: tuple[float, float] = (1.0, 1.0)
    _recent: list[StepRow] = field(default_factory=list, init=False, repr=False)

    def update(self, rows: list[StepRow]) -> Outcome | None:
        """Return the outcome if the solve should stop after these new rows, else None."""
        self._recent = (self._recent + rows)[-2 * self.window :]
        last = self._recent[-self.window :]
        if len(last) == self.window and not any(row.finite for row in last):
            return Outcome.DIVERGED
        change = self._changes()
        if change is not None and max(change) < self.tolerance:
            return Outcome.CONVERGED
        return None

    def at_limit(self) -> Outcome:
        """Return the outcome at the step limit; a change within three standard errors counts as noise."""
        if self._recent and not any(row.finite for row in self._recent):
            return Outcome.DIVERGED
        change, noise = self._changes(), self._noise_of_f1()
        moving = change is not None and change[0] > max(self.moving, 3.0 * noise)
        return Outcome.STILL_MOVING if moving else Outcome.STEP_LIMIT

    def _changes(self) -> tuple[float, float] | None:
        """Return how far the means of f1 and f2 moved between the last two windows; None without both."""
        halves = self._halves()
        if halves is None:
            return None
        before, after = halves
        change1 = statistics.fmean(row.f1 for row in after) - statistics.fmean(row.f1 for row in before)
        change2 = statistics.fmean(row.f2 for row in after) - statistics.fmean(row.f2 for row in before)
        return abs(change1) / self.units[0], abs(change2) / self.units[1]

    def _noise_of_f1(self) -> float:
        """Return the standard error of the difference between the two windows' means of f1."""
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
        before = [row for row in recent[: self.window] if row.finite]
        after = [row for row in recent[self.window :] if row.finite]
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
    pause_after: Callable[[int], bool] = lambda _: False,
) -> Outcome:
    """Step until the stopping rule or the step limit ends the solve, and return which outcome it was.

    It continues from the solver's own step count.

    Args:
        solver: a new solver, or a solver loaded from a state.
        constraint: loss of the constraint at a step.
        objective: loss of the objective at a step.
        steps: number of steps in all, including those before a resume.
        stop: the stopping rule; None for the default rule.
        on_rows: called with the logged rows after every synchronisation with the host.
        flush_every: largest number of steps between two synchronisations.
        pause_after: tells after a number of steps whether there is a further synchronisation.
    """
    stop = stop or StopRule()
    while solver.step_count < steps:
        for _ in range(min(flush_every, steps - solver.step_count)):
            step = solver.step_count
            solver.step(lambda step=step: constraint(step), lambda step=step: objective(step))  # type: ignore[misc]
            if pause_after(solver.step_count):
                break
        rows = solver.flush()
        outcome = stop.update(rows)
        on_rows(rows)
        if outcome is not None:
            return outcome
    return stop.at_limit()
