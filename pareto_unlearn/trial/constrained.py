"""The problems of the method itself: both ends of the front, the path between them, and one epsilon."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.device_copies import take_rows
from pareto_unlearn.solver import (
    BoundaryControl,
    Level,
    LevelControl,
    PathClock,
    PathPlan,
    StepLoss,
    StepRow,
    UpdateSettings,
    ramp,
)
from pareto_unlearn.trial.bank import count_checkpoints
from pareto_unlearn.trial.class_weights import ClassWeights, class_constraint, power_mean
from pareto_unlearn.trial.context import Trial
from pareto_unlearn.trial.measuring import LEAST_RANGE
from pareto_unlearn.trial.problem import Problem, settings_of, units_of
from pareto_unlearn.trial.relearning import Resistance
from pareto_unlearn.trial.step_losses import gap_of_rows, stratified_order, unlearning_losses

IMAGE_POWER = 3.0
"""Power of the mean over images if epsilon holds for each: a larger power looks at the worst image alone."""
UPDATE_LIMIT = 2.5
"""Of the path's steps and of those that hold an epsilon.

It is for bursts, in which f2 rises tenfold within some steps and takes 200 steps to come back; on the digits
fewer than one step in a hundred reaches it. A limit of 1 shortens one in four, and f2 at the end is 40 %
larger.
"""
PULL, PULL_BELOW = 64.0, 0.001
"""Of the path, back to the original while f1 lies below epsilon; the second is in shares of the variance.

Where the retain loss is next to nothing at a small epsilon, f1 never rises without it: a network of colour
pictures of people stayed below e = .11, and its held-out loss stayed with it. Where f2 is a percent, the pull
costs more than it gives: on emoji it made f2 1.6 to 2 times as large before it faded with f2.
"""
LOW_ENOUGH = 0.5
"""Of the bound on e, where attacks are resisted: mini-batches scatter, and at 1 e would end above it."""
HOLD_WARM_UP, HOLD_AVERAGE = 0.1, 0.05
"""Shares of a held solve: the rise of the step size, and the steps that the average looks back over."""


def highest(trial: Trial) -> Problem:
    """Return the problem of the highest boundary: min f1, or the path."""
    if trial.config.solver.start == "path":
        return path(trial)
    units = units_of(trial)
    forget, retain = unlearning_losses(trial, units)
    return Problem(forget, retain, _boundary_rule(trial), settings_of(trial.config), units)


def lowest(trial: Trial) -> Problem:
    """Return the problem of the lowest boundary: the least f1 that leaves f2 alone, or within a tolerance."""
    solver, units = trial.config.solver, units_of(trial)
    forget, retain = unlearning_losses(trial, units)
    swapped, settings = (units[1], units[0]), settings_of(trial.config)
    if solver.lowest.kind == "paper":
        return Problem(retain, forget, _boundary_rule(trial), settings, swapped, swapped=True)
    level = LevelControl(beta=solver.lowest.beta, stabiliser=solver.stabiliser)
    settings = replace(settings, learning_rate=solver.lowest.learning_rate)
    tolerance = units[1].of(solver.lowest.tolerance * trial.scales.variance_retain)
    return Problem(retain, forget, level, settings, swapped, swapped=True, epsilon=tolerance)


def path(trial: Trial) -> Problem:
    """Return the problem of the path: one solve through all epsilons, with averaged weights."""
    plan, (_, unit) = plan_path(trial), units_of(trial)
    clock = PathClock(plan, unit.of(trial.scales.variance_retain), trial.material.device)
    settings = replace(
        settings_of(trial.config),
        steps=plan.steps,
        learning_rate=trial.config.solver.path.learning_rate,
        shape=clock.rate_at,
        update_limit=UPDATE_LIMIT,
        pull=PULL,
        pull_below=PULL_BELOW,
        weight_average=plan.weight_average,
    )
    problem = _level(trial, settings, clock.epsilon_at)
    return replace(
        problem,
        objective=clock.watch(problem.objective),
        is_due=clock.is_due,
        state=problem.state | clock.state,
    )


def plan_path(trial: Trial) -> PathPlan:
    """Return the course of the path, and when it takes its checkpoints."""
    solver = trial.config.solver
    return PathPlan(
        steps=solver.path.steps,
        end=solver.path.end,
        top=solver.path.top,
        descent=solver.path.descent,
        stay=solver.path.stay,
        wait_above=solver.path.wait_above,
        horizon=solver.path.average,
        checkpoints=count_checkpoints(solver.bank, trial.material.trainable()),
    )


def epsilon_problem(trial: Trial) -> Problem:
    """Return the problem of an epsilon: from the original, or held from a mixture of checkpoints."""
    spec, solver, settings = trial.spec, trial.config.solver, settings_of(trial.config)
    if spec.epsilon is None:
        raise ValueError(f"trial {spec.trial_id}: an epsilon trial needs an epsilon, found none")
    unit, _ = units_of(trial)
    epsilon = unit.of(spec.epsilon)
    if spec.parents is None:
        start = unit.of(trial.scales.f1_original)
        return _level(trial, settings, ramp(start, epsilon, round(solver.control.ramp * solver.steps)))
    settings = _held(settings, solver.hold.steps, solver.hold.learning_rate)
    return _level(trial, settings, ramp(epsilon, epsilon, 0))


def hardened(trial: Trial) -> Problem:
    """Return the problem of a model that resists relearning: min f2 s.t. max(e, end / 2) + weight * g <= end.

    ``end`` is the low end of the path. Both terms are at least 0, so they make one constraint; an e that is
    low enough is left alone, or all that g asks for would be asked of e too. g is that of an attack at every
    ``every``-th step, and counts ``every`` times there. The model must hold the weights that the solve starts
    from.
    """
    solver, end = trial.config.solver, trial.config.solver.path.end
    if solver.relearning is None:
        raise ValueError(f"trial {trial.spec.trial_id}: expected solver.relearning, found null")
    section, resistance = solver.relearning, Resistance(trial, solver.relearning)
    settings = _held(settings_of(trial.config), section.steps, solver.path.learning_rate)
    problem = _level(trial, settings, ramp(end, end, 0))
    charged = torch.zeros(section.steps, device=trial.material.device)

    def constraint(step: int) -> Float[Tensor, ""]:
        regained = resistance(step)  # first: the graph of f1 need not be kept in the meantime
        reached = problem.constraint(step)
        bounded = reached.clamp(min=LOW_ENOUGH * end)
        if regained is not None:
            bounded = bounded + section.weight * section.every * regained
        charged[step] = (bounded - reached).detach()
        return bounded

    def without_charge(row: StepRow) -> StepRow:
        return row._replace(f1=row.f1 - float(charged[row.step]))

    return replace(
        problem,
        constraint=constraint,
        state=problem.state | {"relearning": charged},
        logged=without_charge,
        further_passes=resistance.count_passes,
    )


def _held(settings: UpdateSettings, steps: int, learning_rate: float) -> UpdateSettings:
    """Return the settings of a solve that starts next to its end: the step size rises, then falls to zero."""
    return replace(
        settings,
        steps=steps,
        learning_rate=learning_rate,
        learning_rate_end=0.0,
        decay="linear",
        warm_up=HOLD_WARM_UP,
        update_limit=UPDATE_LIMIT,
        weight_average=max(1.0 - 1.0 / max(HOLD_AVERAGE * steps, 1.0), 0.0),
    )


def _level(trial: Trial, settings: UpdateSettings, epsilon: Level) -> Problem:
    """Return the problem min f2 s.t. f1 <= epsilon; epsilon in the solver's unit of f1."""
    solver, units = trial.config.solver, units_of(trial)
    control = solver.control
    forget, retain = unlearning_losses(trial, units)
    state: dict[str, Tensor] = {}
    if solver.completeness == "per_class":
        forget, state = _per_class_constraint(trial, epsilon)
    elif solver.completeness == "per_image":
        forget = _per_image_constraint(trial)
    rule = LevelControl(
        beta=control.beta,
        delta=control.delta,
        scaled=control.scaled,
        squared=control.squared,
        stabiliser=solver.stabiliser,
    )
    return Problem(forget, retain, rule, settings, units, epsilon=epsilon, state=state, has_epsilon=True)


def _boundary_rule(trial: Trial) -> BoundaryControl:
    solver = trial.config.solver
    return BoundaryControl(
        alpha=solver.boundary.alpha, delta=solver.boundary.delta, stabiliser=solver.stabiliser
    )


def _per_class_constraint(trial: Trial, level: Level) -> tuple[StepLoss, dict[str, Tensor]]:
    """Return the constraint that holds every class to the level, in e, and its running state."""
    images, device = trial.material.split.forget_train, trial.material.device
    classes = len(images.class_names)
    membership = torch.nn.functional.one_hot(images.class_ids, classes).to(device, torch.float32)
    original = trial.original_gap() @ membership / membership.sum(dim=0).clamp(min=1.0)
    original = original.clamp(min=LEAST_RANGE * float(original.mean()))
    weights = ClassWeights(classes, device, trial.config.solver.batch)
    gap, order = gap_of_rows(trial), stratified_order(trial)
    ranks = trial.material.ranks
    return class_constraint(gap, membership, original, order, weights, level, ranks), weights.state


def _per_image_constraint(trial: Trial) -> StepLoss:
    """Return the constraint on the power mean of the images' own e; images that lag behind dominate it."""
    gap, order, original = gap_of_rows(trial), stratified_order(trial), trial.original_gap()
    original = original.clamp(min=LEAST_RANGE * float(original.mean()))
    ranks = trial.material.ranks

    def constraint(step: int) -> Float[Tensor, ""]:
        rows = order(step)
        own = rows[ranks.part(len(rows))]

        def mean(powers: Tensor) -> Tensor:
            return ranks.mean(powers.mean(), len(own), len(rows))

        return power_mean(gap(rows, step) / take_rows(original, own), IMAGE_POWER, mean)

    return constraint
