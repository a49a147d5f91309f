"""The step size of the path, found on the problem itself: short descents at several step sizes, the best front wins.

A short descent passes all compromises that the whole path will pass, so the dominated area of what it leaves is the same
measure that the path is after. On the digits, descents of a fifth of the path agree with it on the best two
of six step sizes (0.00025 to 0.008) and on the worst two.
"""

import numpy as np

from pareto_unlearn.analysis.front import hypervolume
from pareto_unlearn.config import SweepConfig
from pareto_unlearn.records import ScanRow, TrialSpec
from pareto_unlearn.solver import EpsilonSolver, FlatParameters, solve
from pareto_unlearn.trial.bank import Costs, measure_averaged
from pareto_unlearn.trial.building import build_problem, plan_path
from pareto_unlearn.trial.material import Material
from pareto_unlearn.trial.measuring import measure_costs

CHECKPOINTS = 12
"""Points of a short descent's front."""


def scan_learning_rate(config: SweepConfig, spec: TrialSpec, material: Material) -> list[ScanRow]:
    """Follow a short path at every step size of ``solver.path.scan`` and say what each was worth.

    Args:
        config: the sweep; nothing is done where the scan is empty.
        spec: the path's trial.
        material: its model holds the original weights, before and after.

    Returns:
        A row each, in the order of the sweep file. The hypervolume is the share of the box from (floor, 0) to the
        original's f1 and the largest f2 of any of them; NaN where a descent was not finite.
    """
    section = config.solver.path
    rates = [factor * section.learning_rate for factor in section.scan]
    steps = section.scan_steps
    descents = [_follow(config, spec, material, rate, steps) for rate in rates]
    worst = max((f2 for front, _ in descents for _, f2 in front), default=0.0)
    scales = material.targets.scales
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
    """Return the step size of the largest hypervolume; the default where nothing was scanned or all were not finite."""
    finite = [row for row in rows if row.hypervolume == row.hypervolume]
    return max(finite, key=lambda row: row.hypervolume).learning_rate if finite else default


def _follow(
    config: SweepConfig, spec: TrialSpec, material: Material, rate: float, steps: int
) -> tuple[list[Costs], int]:
    """Return (f1, f2) along a short descent, none where it was not finite, and the steps it took; the model is as before afterwards."""
    solver_section = config.solver
    path = solver_section.path.model_copy(update={"steps": steps, "learning_rate": rate})
    bank = solver_section.bank.model_copy(update={"checkpoints": CHECKPOINTS})
    short = config.model_copy(
        update={"solver": solver_section.model_copy(update={"path": path, "bank": bank})}
    )
    problem = build_problem(short, spec, material)
    plan = plan_path(short, material)
    parameters = material.trainable(config.objective.space)
    original = FlatParameters(parameters).values.clone()
    solver = EpsilonSolver(
        parameters, problem.rule, problem.settings, epsilon=problem.epsilon, ramp=problem.ramp
    )
    front: list[Costs] = []

    def measure(_: object) -> None:
        if solver.step_count in plan.capture_steps():
            front.append(
                measure_averaged(solver, lambda: measure_costs(config, material, solver_section.bank.images))
            )

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
