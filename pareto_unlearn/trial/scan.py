"""The step size of a path, found on the problem itself: of several short paths, the best front wins.

A short path passes all compromises that the whole path will pass, so the dominated area of what it leaves is
the same measure that the path is after. On the digits, paths of a twentieth of the length agree with whole
ones on the best of three step sizes. The courses of rivals are scanned alike.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pareto_unlearn.analysis.front import hypervolume
from pareto_unlearn.records import ScanProgress, ScanRow
from pareto_unlearn.solver import EpsilonSolver, FlatParameters, StopRule, solve
from pareto_unlearn.trial.bank import Costs, averaged_values, measure_averaged
from pareto_unlearn.trial.building import build_problem
from pareto_unlearn.trial.constrained import plan_path
from pareto_unlearn.trial.context import Trial
from pareto_unlearn.trial.measuring import measure_costs
from pareto_unlearn.trial.mixing import weights_of
from pareto_unlearn.trial.problem import trained_parameters

CHECKPOINTS = 12
"""Points of a short path's front."""
MAX_EXTENSIONS = 2
"""Step sizes that may be tried beyond those of the sweep file, where the best is the smallest or largest."""


OnScan = Callable[[ScanProgress], None]


def scan_learning_rate(trial: Trial, on_scan: OnScan = lambda _: None) -> list[ScanRow]:
    """Follow a short path at every step size of ``solver.path.scan`` and return what each was worth.

    While the best is the smallest or the largest, the next one beyond it is tried too, at most
    ``MAX_EXTENSIONS`` times.

    Args:
        trial: of a path or a course; its model holds the original weights, before and after.
        on_scan: takes how far the scan is, after some steps each time and at the end.

    Returns:
        A row for each step size, by rising step size.
    """
    section = trial.config.solver.path
    rates = [factor * section.learning_rate for factor in sorted(section.scan)]
    rows = [_try(_ShortPath(trial, rate, place, len(rates)), on_scan) for place, rate in enumerate(rates, 1)]
    for _ in range(MAX_EXTENSIONS):
        beyond = rate_beyond(rows)
        if beyond is None:
            break
        place = len(rows) + 1
        row = _try(_ShortPath(trial, beyond, place, place), on_scan)
        rows = sorted([*rows, row], key=lambda row: row.learning_rate)
    if rows:
        on_scan(_conclude(rows, section.learning_rate, section.scan_steps))
    return rows


def _conclude(rows: list[ScanRow], default: float, steps: int) -> ScanProgress:
    """Return what a scan reports at its end."""
    return ScanProgress(
        place=len(rows),
        count=len(rows),
        learning_rate=best_learning_rate(rows, default),
        step=steps,
        steps=steps,
        rows=tuple(rows),
        is_at_edge=rate_beyond(rows) is not None,
    )


def best_learning_rate(rows: list[ScanRow], default: float) -> float:
    """Return the step size of the largest hypervolume; the default if no short path was scanned or finite."""
    finite = [row for row in rows if not math.isnan(row.hypervolume)]
    return max(finite, key=lambda row: row.hypervolume).learning_rate if finite else default


def rate_beyond(rows: Sequence[ScanRow]) -> float | None:
    """Return the step size beyond the edge of a scan at which the best lies; None if it lies inside.

    Args:
        rows: by rising step size; with fewer than two there is no edge.
    """
    rates = [row.learning_rate for row in rows]
    if len(rates) < 2 or all(math.isnan(row.hypervolume) for row in rows):
        return None
    best = best_learning_rate(list(rows), math.nan)
    if best == rates[0]:
        return rates[0] ** 2 / rates[1]
    return rates[-1] ** 2 / rates[-2] if best == rates[-1] else None


@dataclass(frozen=True, slots=True, eq=False)
class _ShortPath:
    """A short path of a trial at one step size: number ``place`` of ``count``, counted from 1."""

    trial: Trial
    learning_rate: float
    place: int
    count: int

    @property
    def steps(self) -> int:
        return self.trial.config.solver.path.scan_steps

    def after(self, step: int) -> ScanProgress:
        """Return what it reports after a number of steps."""
        return ScanProgress(
            place=self.place,
            count=self.count,
            learning_rate=self.learning_rate,
            step=step,
            steps=self.steps,
        )

    def shorten(self) -> Trial:
        """Return its trial."""
        solver = self.trial.config.solver
        path = solver.path.model_copy(update={"steps": self.steps, "learning_rate": self.learning_rate})
        bank = solver.bank.model_copy(update={"checkpoints": CHECKPOINTS})
        short = solver.model_copy(update={"path": path, "bank": bank})
        return replace(self.trial, config=self.trial.config.model_copy(update={"solver": short}))


def _try(short_path: _ShortPath, on_scan: OnScan) -> ScanRow:
    """Return what a short path at one step size is worth.

    The hypervolume is the share of the box from (floor, 0) to the original's f1 and the variance of its
    outputs; NaN if the path was not finite.
    """
    front, taken = _follow(short_path, on_scan)
    scales = short_path.trial.scales
    box = (scales.f1_floor, 0.0), (scales.f1_original, scales.variance_retain)
    worth = hypervolume(np.array(front, dtype=float), *box) if front else math.nan
    return ScanRow(learning_rate=short_path.learning_rate, steps=taken, hypervolume=worth)


def _follow(short_path: _ShortPath, on_scan: OnScan) -> tuple[list[tuple[float, float]], int]:
    """Return (f1, f2) along a short path, empty if it was not finite, and the steps it took.

    The model is as before afterwards.
    """
    trial, short = short_path.trial, short_path.shorten()
    problem, original = build_problem(short), weights_of(trial.material)
    parameters = trained_parameters(short, problem)
    solver = EpsilonSolver(
        parameters,
        problem.rule,
        problem.settings,
        epsilon=problem.epsilon,
        add_up=trial.material.ranks.add,
    )
    front: list[Costs] = []

    def measure() -> Costs:
        return measure_costs(trial.material, trial.config.solver.bank.images)

    def take(_: object) -> None:
        on_scan(short_path.after(solver.step_count))
        if problem.is_due(solver.step_count):
            front.append(measure_averaged(solver, measure))

    solve(
        solver,
        problem.constraint,
        problem.objective,
        steps=short_path.steps,
        stop=StopRule(tolerance=0.0),
        on_rows=take,
        pause_after=problem.is_due,
    )
    flat = solver.flat
    if problem.curve is not None:
        flat = FlatParameters(trial.material.trainable())
        for values in problem.curve.points(averaged_values(solver), plan_path(short).checkpoints):
            flat.load(values)
            front.append(measure())
    flat.load(original)
    costs = [(one.f1, one.f2) for one in front]
    return costs if all(np.isfinite(costs).ravel()) else [], solver.step_count
