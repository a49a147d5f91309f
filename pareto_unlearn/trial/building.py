"""Turns a planned trial into losses, a rule and settings for the solver."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.data import BatchOrder, Order, StratifiedOrder, reading_ahead, seeded_generator
from pareto_unlearn.models import Batch, Term, family_of
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.records import CurveRow, Phase, Role, TrialSpec
from pareto_unlearn.solver import (
    RIVALS,
    BoundaryControl,
    FixedMultiplier,
    LevelControl,
    PathPlan,
    Rule,
    StepRow,
    UpdateSettings,
)
from pareto_unlearn.trial.bank import count_checkpoints
from pareto_unlearn.trial.class_weights import ClassWeights, class_constraint, power_mean
from pareto_unlearn.trial.distances import FORGET, RETAIN, StepInputs
from pareto_unlearn.trial.forward import run_in_steps, step_comparison, step_features
from pareto_unlearn.trial.material import Material
from pareto_unlearn.trial.measuring import LEAST_RANGE

IMAGE_POWER = 3.0
"""Power of the mean over images where epsilon holds for each of them: larger ones look at the worst image alone."""

StepLoss = Callable[[int], Float[Tensor, ""]]


@dataclass(frozen=True, slots=True)
class Unit:
    """An affine unit of a loss: value in the unit = (raw - offset) / scale."""

    offset: float = 0.0
    scale: float = 1.0

    def of(self, raw: float) -> float:
        """Return a raw value in this unit."""
        return (raw - self.offset) / self.scale

    def raw(self, value: float) -> float:
        """Return the raw value of one in this unit."""
        return value * self.scale + self.offset


@dataclass(frozen=True, slots=True)
class Problem:
    """What the solver is given.

    ``swapped`` says that f2 is the constraint and f1 the objective. ``spreads`` are the full ranges of constraint and
    objective in their units: what a change of either is measured against. ``path`` is set where the solve leaves a bank.
    ``state`` holds tensors that the constraint
    updates at every step and that a resume must bring back. ``space`` names the parameters that are trained, None for those of
    the sweep's objectives.
    """

    constraint: StepLoss
    objective: StepLoss
    rule: Rule
    settings: UpdateSettings
    units: tuple[Unit, Unit]
    path: PathPlan | None = None
    swapped: bool = False
    epsilon: float = 0.0
    ramp: tuple[float, int] = (0.0, 0)
    has_epsilon: bool = False
    spreads: tuple[float, float] = (1.0, 1.0)
    state: dict[str, Tensor] = field(default_factory=dict)
    space: str | None = None

    def curve_row(self, row: StepRow, images_per_second: float | None) -> CurveRow:
        """Return a logged step with raw f1, f2 and epsilon; gradients and multiplier stay in the solver's units."""
        constraint, objective = self.units[0].raw(row.f1), self.units[1].raw(row.f2)
        norms = (row.norm2, row.norm1) if self.swapped else (row.norm1, row.norm2)
        return CurveRow(
            step=row.step,
            f1=objective if self.swapped else constraint,
            f2=constraint if self.swapped else objective,
            multiplier=row.eta,
            control=row.psi,
            gradient_norm_f1=norms[0],
            gradient_norm_f2=norms[1],
            cosine=row.cosine,
            learning_rate=row.learning_rate,
            epsilon=self.units[0].raw(row.epsilon) if self.has_epsilon else None,
            images_per_second=images_per_second,
        )


def build_problem(config: SweepConfig, spec: TrialSpec, material: Material) -> Problem:
    """Return the problem of a trial.

    The averaged update works in e and in fractions of the original outputs' variance, so one set of defaults serves
    every model, and the rules that other methods make of the two gradients work in the same units. The paper's update
    and the weighted sums work on the raw objectives, as published.
    """
    builders = {
        (Phase.BOUNDARY, Role.HIGHEST): _highest,
        (Phase.BOUNDARY, Role.LOWEST): _lowest,
        (Phase.EPSILON, None): _epsilon,
        (Phase.BASELINE, None): _baseline,
    }
    problem = builders[spec.phase_solved, spec.role](config, spec, material)
    scales = material.targets.scales
    ranges = (scales.f1_range, scales.variance_retain)
    ordered = ranges[::-1] if problem.swapped else ranges
    scaled = [abs(spread / unit.scale) for spread, unit in zip(ordered, problem.units, strict=True)]
    return replace(problem, spreads=(scaled[0], scaled[1]))


def _highest(config: SweepConfig, spec: TrialSpec, material: Material) -> Problem:
    if config.solver.start == "path":
        return _path(config, spec, material)
    solver, units = config.solver, _units(config, material)
    forget, retain = _unlearning_losses(config, spec, material, units)
    rule = BoundaryControl(
        alpha=solver.boundary.alpha, delta=solver.boundary.delta, stabiliser=solver.stabiliser
    )
    return Problem(forget, retain, rule, _settings(config), units)


def _path(config: SweepConfig, spec: TrialSpec, material: Material) -> Problem:
    """The descent of epsilon from the original to the floor, with averaged weights."""
    section, plan = config.solver.path, plan_path(config, material)
    settings = replace(
        _settings(config),
        steps=section.steps,
        learning_rate=section.learning_rate,
        learning_rate_end=0.0,
        decay="linear",
        warm_up=section.warm_up,
        cool_down=max(section.hold, 1.0 / section.steps),
        weight_average=plan.weight_average,
    )
    problem = _level(config, spec, material, settings, plan.end, plan.ramp(1.0))
    return replace(problem, path=plan)


def plan_path(config: SweepConfig, material: Material) -> PathPlan:
    """Return when the path takes its checkpoints."""
    section = config.solver.path
    return PathPlan(
        steps=section.steps,
        end=section.end,
        hold=section.hold,
        horizon=section.average,
        checkpoints=count_checkpoints(config.solver.bank, material.trainable(config.objective.space)),
    )


def _lowest(config: SweepConfig, spec: TrialSpec, material: Material) -> Problem:
    solver, units = config.solver, _units(config, material)
    forget, retain = _unlearning_losses(config, spec, material, units)
    swapped = (units[1], units[0])
    if solver.lowest.kind == "paper":
        rule = BoundaryControl(
            alpha=solver.boundary.alpha, delta=solver.boundary.delta, stabiliser=solver.stabiliser
        )
        return Problem(retain, forget, rule, _settings(config), swapped, swapped=True)
    level = LevelControl(beta=solver.lowest.beta, stabiliser=solver.stabiliser)
    settings = replace(_settings(config), learning_rate=solver.lowest.learning_rate)
    tolerance = units[1].of(solver.lowest.tolerance * material.targets.scales.variance_retain)
    return Problem(retain, forget, level, settings, swapped, swapped=True, epsilon=tolerance)


def _epsilon(config: SweepConfig, spec: TrialSpec, material: Material) -> Problem:
    if spec.epsilon is None:
        raise ValueError(f"trial {spec.trial_id}: an epsilon trial needs an epsilon, found none")
    solver, units = config.solver, _units(config, material)
    epsilon = units[0].of(spec.epsilon)
    if spec.parents is not None:
        settings = replace(
            _settings(config),
            steps=solver.branch.steps,
            learning_rate=solver.branch.learning_rate,
            learning_rate_end=0.0,
            decay="linear",
        )
        return _level(config, spec, material, settings, epsilon, (0.0, 0))
    ramp = (units[0].of(material.targets.scales.f1_original), round(solver.control.ramp * solver.steps))
    return _level(config, spec, material, _settings(config), epsilon, ramp)


def _level(
    config: SweepConfig,
    spec: TrialSpec,
    material: Material,
    settings: UpdateSettings,
    epsilon: float,
    ramp: tuple[float, int],
) -> Problem:
    """Return the problem min f2 s.t. f1 <= epsilon; epsilon and ramp in the solver's unit of f1."""
    control, units = config.solver.control, _units(config, material)
    forget, retain = _unlearning_losses(config, spec, material, units)
    state: dict[str, Tensor] = {}
    if config.solver.completeness == "per_class":
        forget, state = _per_class_constraint(config, spec, material, _ramped(epsilon, ramp))
    elif config.solver.completeness == "per_image":
        forget = _per_image_constraint(config, spec, material)
    rule = LevelControl(
        beta=control.beta, delta=control.delta, scaled=control.scaled, stabiliser=config.solver.stabiliser
    )
    return Problem(
        forget, retain, rule, settings, units, epsilon=epsilon, ramp=ramp, state=state, has_epsilon=True
    )


def _baseline(config: SweepConfig, spec: TrialSpec, material: Material) -> Problem:
    if spec.weight is None:
        raise ValueError(f"trial {spec.trial_id}: baseline {spec.method} needs a weight, found none")
    if spec.method in RIVALS:
        units = _units(config, material)
        forget, retain = _unlearning_losses(config, spec, material, units)
        return Problem(forget, retain, RIVALS[spec.method](spec.weight), _settings(config), units)
    return {
        "composite": _composite,
        "max_loss": _max_loss,
        "retain_only": _retain_only,
    }.get(spec.method, _published)(config, spec, material, spec.weight)


def _composite(config: SweepConfig, spec: TrialSpec, material: Material, weight: float) -> Problem:
    """Eq. 10, arXiv:2402.00351: the weighted sum of both objectives, raw."""
    forget, retain = _unlearning_losses(config, spec, material, (Unit(), Unit()))
    return Problem(forget, retain, FixedMultiplier(weight=weight), _settings(config), (Unit(), Unit()))


def _max_loss(config: SweepConfig, spec: TrialSpec, material: Material, weight: float) -> Problem:
    """Appendix C.6.1, arXiv:2402.00351: ascend the training loss on forget images, descend it on retain images.

    The unit turns the negated forget loss back into a loss for the curves.
    """
    forget, retain = _training_losses(config, spec, material)
    rule, units = FixedMultiplier(weight=weight), (Unit(scale=-1.0), Unit())
    return Problem(lambda step: -forget(step), retain, rule, _settings(config), units, space="output")


def _retain_only(config: SweepConfig, spec: TrialSpec, material: Material, _: float) -> Problem:
    """Train on with retain images alone; the loss of forget images is only watched."""
    forget, retain = _training_losses(config, spec, material)
    rule, units = FixedMultiplier(weight=0.0), (Unit(), Unit())
    return Problem(forget, retain, rule, _settings(config), units, space="output")


def _training_losses(config: SweepConfig, spec: TrialSpec, material: Material) -> tuple[StepLoss, StepLoss]:
    """Return the loss of the original's training on forget images and on retain images."""
    orders, inputs = _orders(config, spec, material), StepInputs(material, spec.seed)
    training_loss = run_in_steps(config, material.model.training_loss)
    return (
        lambda step: training_loss(inputs.forget_alone(orders[0](step), step)),
        lambda step: training_loss(inputs.retain(orders[1](step), step)),
    )


def _published(config: SweepConfig, spec: TrialSpec, material: Material, weight: float) -> Problem:
    """Appendix C.6.2 to C.6.4, arXiv:2402.00351, as the family has it; what a step draws depends on seed and step."""
    baseline = family_of(config.model.family).baselines[spec.method]
    orders, inputs = _orders(config, spec, material), StepInputs(material, spec.seed)
    original = copy.deepcopy(material.model) if material.original is None else material.original

    def in_steps(term: Term, place: int) -> StepLoss:
        loss = run_in_steps(config, partial(term.loss, material.model))

        def compute(step: int) -> Float[Tensor, ""]:
            batch = Batch(
                original=original,
                forget=inputs.forget_alone(orders[0](step), step),
                retain=inputs.retain(orders[1](step), step),
                generator=seeded_generator(spec.seed, Stream.BASELINE, place, step),
            )
            with torch.no_grad():
                given = term.given(batch)
            return loss(*given)

        return compute

    losses = in_steps(baseline.forget, FORGET), in_steps(baseline.retain, RETAIN)
    rule, units = FixedMultiplier(weight=weight), (Unit(), Unit())
    return Problem(*losses, rule, _settings(config), units, space=baseline.space)


def _unlearning_losses(
    config: SweepConfig, spec: TrialSpec, material: Material, units: tuple[Unit, Unit]
) -> tuple[StepLoss, StepLoss]:
    """Return f1 and f2 of the mini-batch at a step, in the given units."""
    features, comparison = step_features(config, material), step_comparison(config, material)
    inputs, orders = StepInputs(material, spec.seed), _orders(config, spec, material)

    def forget(step: int) -> Float[Tensor, ""]:
        rows = orders[0](step)
        images, asked = inputs.forget(rows, step)
        loss = comparison.forget_loss(features(images), asked, rows, orders[2](step))
        return (loss - units[0].offset) / units[0].scale

    def retain(step: int) -> Float[Tensor, ""]:
        rows = orders[1](step)
        images = inputs.retain(rows, step)
        return comparison.retain_per_image(features(images), images, rows, "train").mean() / units[1].scale

    return forget, retain


def _per_class_constraint(
    config: SweepConfig, spec: TrialSpec, material: Material, level: Callable[[int], float]
) -> tuple[StepLoss, dict[str, Tensor]]:
    """Return the constraint that holds every class to the level, in e, and its running state."""
    images = material.split.forget_train
    membership = torch.nn.functional.one_hot(images.class_ids, len(images.class_names))
    membership = membership.to(material.device, torch.float32)
    original = _original_gap(material) @ membership / membership.sum(dim=0).clamp(min=1.0)
    original = original.clamp(min=LEAST_RANGE * float(original.mean()))
    weights = ClassWeights(len(images.class_names), material.device, config.solver.batch)
    gap, order = _gap_of_rows(config, spec, material), _stratified(config, spec, material)
    return class_constraint(gap, membership, original, order, weights, level), weights.state


def _per_image_constraint(config: SweepConfig, spec: TrialSpec, material: Material) -> StepLoss:
    """Return the constraint on the power mean of the images' own e, which the images that lag behind dominate."""
    gap, order = _gap_of_rows(config, spec, material), _stratified(config, spec, material)
    original = _original_gap(material)
    original = original.clamp(min=LEAST_RANGE * float(original.mean()))

    def constraint(step: int) -> Float[Tensor, ""]:
        rows = order(step)
        return power_mean(gap(rows, step) / original[rows], IMAGE_POWER)

    return constraint


def _gap_of_rows(
    config: SweepConfig, spec: TrialSpec, material: Material
) -> Callable[[Tensor, int], Float[Tensor, " b"]]:
    """Return the function from rows of the forget set, at a step, to their f1 above the floor, with gradients."""
    features, comparison = step_features(config, material), step_comparison(config, material)
    inputs = StepInputs(material, spec.seed)

    def gap(rows: Tensor, step: int) -> Float[Tensor, " b"]:
        images, asked = inputs.forget(rows, step)
        return (
            comparison.forget_per_image(features(images), asked, rows, "train")
            - material.targets.scales.f1_floor
        )

    return gap


def _original_gap(material: Material) -> Float[Tensor, " n"]:
    return material.targets.forget_f1_train - material.targets.scales.f1_floor


def _stratified(config: SweepConfig, spec: TrialSpec, material: Material) -> Order:
    class_ids = material.split.forget_train.class_ids
    order = StratifiedOrder(class_ids, config.solver.batch, spec.seed, Stream.FORGET_BATCHES)
    return _reading_ahead(order, material, "forget")


def _ramped(epsilon: float, ramp: tuple[float, int]) -> Callable[[int], float]:
    """Return the level at a step, as the solver's own ramp has it."""
    start, steps = ramp
    return lambda step: epsilon if step + 1 >= steps else start + (step + 1) / steps * (epsilon - start)


def _orders(config: SweepConfig, spec: TrialSpec, material: Material) -> tuple[Order, Order, Order]:
    batch, bank = config.solver.batch, material.targets.noise
    forget = BatchOrder(len(material.inputs["forget", "train"]), batch, spec.seed, Stream.FORGET_BATCHES)
    retain = BatchOrder(len(material.inputs["retain", "train"]), batch, spec.seed, Stream.RETAIN_BATCHES)
    return (
        _reading_ahead(forget, material, "forget"),
        _reading_ahead(retain, material, "retain"),
        BatchOrder(1 if bank is None else len(bank.rows), batch, spec.seed, Stream.BANK_BATCHES),
    )


def _reading_ahead(order: Order, material: Material, name: str) -> Order:
    """Return an order over a training set that has files read ahead where a step needs them."""
    if isinstance(material.inputs[name, "train"], Tensor):
        return order
    images = material.split.forget_train if name == "forget" else material.split.retain_train
    return reading_ahead(order, images.images)


def _units(config: SweepConfig, material: Material) -> tuple[Unit, Unit]:
    scales = material.targets.scales
    if config.solver.update == "paper":
        return Unit(), Unit()
    return Unit(scales.f1_floor, scales.f1_range), Unit(0.0, scales.variance_retain)


def _settings(config: SweepConfig) -> UpdateSettings:
    solver = config.solver
    return UpdateSettings(
        kind=solver.update,
        steps=solver.steps,
        learning_rate=solver.learning_rate,
        learning_rate_end=solver.learning_rate_end,
        betas=solver.betas,
        average=solver.average,
        clip=solver.clip,
    )
