"""The problems of the method itself: both ends of the front, the path between them, and one epsilon."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.solver import BoundaryControl, LevelControl, PathPlan, UpdateSettings, ramped_epsilon
from pareto_unlearn.trial.bank import count_checkpoints
from pareto_unlearn.trial.class_weights import ClassWeights, class_constraint, power_mean
from pareto_unlearn.trial.context import Trial
from pareto_unlearn.trial.measuring import LEAST_RANGE
from pareto_unlearn.trial.problem import Problem, StepLoss, settings_of, units_of
from pareto_unlearn.trial.step_losses import gap_of_rows, stratified_order, unlearning_losses

IMAGE_POWER = 3.0
"""Power of the mean over images if epsilon holds for each: a larger power looks at the worst image alone."""


def highest(trial: Trial) -> Problem:
    """Return the problem of the highest boundary: min f1, or the descent of the path."""
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
    """Return the descent of epsilon from the original to the floor, with averaged weights."""
    section, plan = trial.config.solver.path, plan_path(trial)
    settings = replace(
        settings_of(trial.config),
        steps=section.steps,
        learning_rate=section.learning_rate,
        learning_rate_end=0.0,
        decay="linear",
        warm_up=section.warm_up,
        cool_down=max(section.hold, 1.0 / section.steps),
        weight_average=plan.weight_average,
    )
    return replace(_level(trial, settings, plan.end, plan.ramp(1.0)), path=plan)


def plan_path(trial: Trial) -> PathPlan:
    """Return when the path takes its checkpoints."""
    solver = trial.config.solver
    return PathPlan(
        steps=solver.path.steps,
        end=solver.path.end,
        hold=solver.path.hold,
        horizon=solver.path.average,
        checkpoints=count_checkpoints(solver.bank, trial.material.trainable()),
    )


def epsilon_problem(trial: Trial) -> Problem:
    """Return the problem of an epsilon: from the original, or branching off from a checkpoint of the path."""
    spec, solver, settings = trial.spec, trial.config.solver, settings_of(trial.config)
    if spec.epsilon is None:
        raise ValueError(f"trial {spec.trial_id}: an epsilon trial needs an epsilon, found none")
    unit, _ = units_of(trial)
    epsilon = unit.of(spec.epsilon)
    if spec.parents is None:
        ramp = (unit.of(trial.scales.f1_original), round(solver.control.ramp * solver.steps))
        return _level(trial, settings, epsilon, ramp)
    branch = replace(
        settings,
        steps=solver.branch.steps,
        learning_rate=solver.branch.learning_rate,
        learning_rate_end=0.0,
        decay="linear",
    )
    return _level(trial, branch, epsilon, (0.0, 0))


def _level(trial: Trial, settings: UpdateSettings, epsilon: float, ramp: tuple[float, int]) -> Problem:
    """Return the problem min f2 s.t. f1 <= epsilon; epsilon and ramp in the solver's unit of f1."""
    solver, units = trial.config.solver, units_of(trial)
    control = solver.control
    forget, retain = unlearning_losses(trial, units)
    state: dict[str, Tensor] = {}
    if solver.completeness == "per_class":
        forget, state = _per_class_constraint(trial, partial(ramped_epsilon, epsilon=epsilon, ramp=ramp))
    elif solver.completeness == "per_image":
        forget = _per_image_constraint(trial)
    rule = LevelControl(
        beta=control.beta, delta=control.delta, scaled=control.scaled, stabiliser=solver.stabiliser
    )
    return Problem(
        forget, retain, rule, settings, units, epsilon=epsilon, ramp=ramp, state=state, has_epsilon=True
    )


def _boundary_rule(trial: Trial) -> BoundaryControl:
    solver = trial.config.solver
    return BoundaryControl(
        alpha=solver.boundary.alpha, delta=solver.boundary.delta, stabiliser=solver.stabiliser
    )


def _per_class_constraint(trial: Trial, level: Callable[[int], float]) -> tuple[StepLoss, dict[str, Tensor]]:
    """Return the constraint that holds every class to the level, in e, and its running state."""
    images, device = trial.material.split.forget_train, trial.material.device
    classes = len(images.class_names)
    membership = torch.nn.functional.one_hot(images.class_ids, classes).to(device, torch.float32)
    original = trial.original_gap() @ membership / membership.sum(dim=0).clamp(min=1.0)
    original = original.clamp(min=LEAST_RANGE * float(original.mean()))
    weights = ClassWeights(classes, device, trial.config.solver.batch)
    gap, order = gap_of_rows(trial), stratified_order(trial)
    return class_constraint(gap, membership, original, order, weights, level), weights.state


def _per_image_constraint(trial: Trial) -> StepLoss:
    """Return the constraint on the power mean of the images' own e; images that lag behind dominate it."""
    gap, order, original = gap_of_rows(trial), stratified_order(trial), trial.original_gap()
    original = original.clamp(min=LEAST_RANGE * float(original.mean()))

    def constraint(step: int) -> Float[Tensor, ""]:
        rows = order(step)
        return power_mean(gap(rows, step) / original[rows], IMAGE_POWER)

    return constraint
