"""The step size of the path, found on the problem itself: of several short descents, the best front wins.

A short descent passes all compromises that the whole path will pass, so the dominated area of what it leaves
is the same measure that the path is after. On the digits, descents of a fifth of the path agree with it on
the best two of six step sizes (0.00025 to 0.008) and on the worst two.
"""

from dataclasses import replace

import numpy as np

from pareto_unlearn.analysis.front import hypervolume
from pareto_unlearn.records import ScanRow
from pareto_unlearn.solver import EpsilonSolver, FlatParameters, solve
from pareto_unlearn.trial.bank import Costs, measure_averaged
from pareto_unlearn.trial.building import build_problem
from pareto_unlearn.trial.constrained import plan_path
from pareto_unlearn.trial.context import Trial
from pareto_unlearn.trial.measuring import measure_costs

CHECKPOINTS = 12
"""Points of a short descent's front."""


def scan_learning_rate(trial: Trial) -> list[ScanRow]:
    """Follow a short path at every step size of ``solver.path.scan`` and return what each was worth.

    Args:
        trial: the path's; its model holds the original weights, before and after.

    Returns:
        A row for each step size, in the order of the sweep file. The hypervolume is the share of the box from
        (floor, 0) to the original's f1 and the largest f2 of all descents; NaN if a descent was not finite.
    """
    section = trial.config.solver.path
    rates = [factor * section.learning_rate for factor in section.scan]
    steps = section.scan_steps
    descents = [_follow(trial, rate, steps) for rate in rates]
    worst = max((f2 for front, _ in descents for _, f2 in front), default=0.0)
    scales = trial.scales
    box = (scales.f1_floor, 0.0), (scales.f1_original, max(worst, 1e-12) * (1.0 + 1e-9))
    return [
        ScanRow(
            learning_rate=rate,
            steps=taken,
            hypervolume=hypervolume(np.array(front, dtype=float), *box) if front else float("nan"),
        )
        for rate, (front, taken) in zip(rates, descents, strict=True)
    ]


def best_learning_rate(rows: list[ScanRow], default: float) -> float:
    """Return the step size of the largest hypervolume; the default if no descent was scanned or finite."""
    finite = [row for row in rows if row.hypervolume == row.hypervolume]
    return max(finite, key=lambda row: row.hypervolume).learning_rate if finite else default


def _follow(trial: Trial, rate: float, steps: int) -> tuple[list[Costs], int]:
    """Return (f1, f2) along a short descent, empty if it was not finite, and the steps it took.

    The model is as before afterwards.
    """
    short = _shorten(trial, rate, steps)
    problem, plan = build_problem(short), plan_path(short)
    parameters = trial.material.trainable()
    original = FlatParameters(parameters).values.clone()
    solver = EpsilonSolver(
        parameters, problem.rule, problem.settings, epsilon=problem.epsilon, ramp=problem.ramp
    )
    front: list[Costs] = []
    images = trial.config.solver.bank.images

    def measure(_: object) -> None:
        if solver.step_count in plan.capture_steps():
            front.append(measure_averaged(solver, lambda: measure_costs(trial.material, images)))

    solve(
        solver,
        problem.constraint,
        problem.objective,
        steps=steps,
        on_rows=measure,
        pauses=plan.capture_steps(),
    )
    solver.flat.load(original)
    return front if all(np.isfinite(front).ravel()) else [], solver.step_count


def _shorten(trial: Trial, rate: float, steps: int) -> Trial:
    """Return the trial of a short path at one step size."""
    solver = trial.config.solver
    path = solver.path.model_copy(update={"steps": steps, "learning_rate": rate})
    bank = solver.bank.model_copy(update={"checkpoints": CHECKPOINTS})
    short = solver.model_copy(update={"path": path, "bank": bank})
    return replace(trial, config=trial.config.model_copy(update={"solver": short}))
