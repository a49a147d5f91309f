"""Turns a planned trial into the problem that the solver is given."""

from dataclasses import replace

from pareto_unlearn.records import Phase, Role
from pareto_unlearn.trial.baselines import baseline
from pareto_unlearn.trial.constrained import epsilon_problem, hardened, highest, lowest
from pareto_unlearn.trial.context import Trial
from pareto_unlearn.trial.problem import Problem

BUILDERS = {
    (Phase.BOUNDARY, Role.HIGHEST): highest,
    (Phase.BOUNDARY, Role.LOWEST): lowest,
    (Phase.EPSILON, None): epsilon_problem,
    (Phase.BASELINE, None): baseline,
    (Phase.HARDENED, None): hardened,
}


def build_problem(trial: Trial) -> Problem:
    """Return the problem of a trial.

    The averaged update works in e and in fractions of the original outputs' variance, so one set of defaults
    serves every model, and the rules that other methods make of the two gradients work in the same units. The
    paper's update and the weighted sums work on the raw objectives, as published.
    """
    problem = BUILDERS[trial.spec.phase_solved, trial.spec.role](trial)
    ranges = (trial.scales.f1_range, trial.scales.variance_retain)
    ordered = ranges[::-1] if problem.swapped else ranges
    scaled = [abs(spread / unit.scale) for spread, unit in zip(ordered, problem.units, strict=True)]
    return replace(problem, spreads=(scaled[0], scaled[1]))
