"""The losses of mini-batches as functions of the step, on images in an order drawn from the trial's seed."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.data import BatchOrder, Order, StratifiedOrder, reading_ahead
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.solver import StepLoss
from pareto_unlearn.trial.context import Trial
from pareto_unlearn.trial.distances import StepInputs
from pareto_unlearn.trial.forward import run_in_steps, step_features, step_targets
from pareto_unlearn.trial.problem import Units


def unlearning_losses(trial: Trial, units: Units) -> tuple[StepLoss, StepLoss]:
    """Return f1 and f2 of the mini-batch at a step, in the given units."""
    features = step_features(trial.config, trial.material)
    forget_target, retain_target = step_targets(trial.config, trial.material)
    inputs, ranks = StepInputs(trial.material, trial.spec.seed), trial.material.ranks
    forget_order, retain_order = batch_orders(trial)
    bank_order = BatchOrder(
        forget_target.bank_size, trial.config.solver.batch, trial.spec.seed, Stream.BANK_BATCHES
    )

    def forget(step: int) -> Float[Tensor, ""]:
        rows = forget_order(step)
        batch, drawn = inputs.forget(rows, step), bank_order(step)[ranks.part(len(rows))]
        loss = forget_target.step_loss(features(batch.inputs), batch, drawn)
        return units[0].of(ranks.mean(loss, len(batch.rows), len(rows)))

    def retain(step: int) -> Float[Tensor, ""]:
        rows = retain_order(step)
        batch = inputs.retain(rows, step)
        loss = retain_target.per_image(features(batch.inputs), batch).mean()
        return units[1].of(ranks.mean(loss, len(batch.rows), len(rows)))

    return forget, retain


def training_losses(trial: Trial) -> tuple[StepLoss, StepLoss]:
    """Return the loss of the original's own training on forget images and on retain images.

    It is a family's own function of a whole batch, which nothing says to be a mean over images: every rank
    computes it in whole.
    """
    ranks, trial = trial.material.ranks, trial.alone()
    inputs = StepInputs(trial.material, trial.spec.seed)
    forget_order, retain_order = batch_orders(trial)
    training_loss = run_in_steps(trial.config, trial.material.model.training_loss)
    return (
        lambda step: ranks.alike(training_loss(inputs.forget(forget_order(step), step).inputs)),
        lambda step: ranks.alike(training_loss(inputs.retain(retain_order(step), step).inputs)),
    )


def gap_of_rows(trial: Trial) -> Callable[[Tensor, int], Float[Tensor, " b"]]:
    """Return the function from rows of the forget set and a step to their f1 above the floor.

    Of several ranks each returns it for its part of the rows.
    """
    features = step_features(trial.config, trial.material)
    target, _ = step_targets(trial.config, trial.material)
    inputs, floor = StepInputs(trial.material, trial.spec.seed), trial.scales.f1_floor

    def gap(rows: Tensor, step: int) -> Float[Tensor, " b"]:
        batch = inputs.forget(rows, step)
        return target.per_image(features(batch.inputs), batch) - floor

    return gap


def batch_orders(trial: Trial) -> tuple[Order, Order]:
    """Return the order of forget images and that of retain images."""
    forget, retain = (
        BatchOrder(len(trial.training_inputs(name)), trial.config.solver.batch, trial.spec.seed, stream)
        for name, stream in (("forget", Stream.FORGET_BATCHES), ("retain", Stream.RETAIN_BATCHES))
    )
    return _reading_ahead(forget, trial, "forget"), _reading_ahead(retain, trial, "retain")


def stratified_order(trial: Trial) -> Order:
    """Return the order of forget images in which every batch has equal numbers of all classes."""
    class_ids = trial.material.split.forget_train.class_ids
    order = StratifiedOrder(class_ids, trial.config.solver.batch, trial.spec.seed, Stream.FORGET_BATCHES)
    return _reading_ahead(order, trial, "forget")


def _reading_ahead(order: Order, trial: Trial, name: str) -> Order:
    """Return the order over a training set that reads the next batch's files early, if steps read files."""
    if isinstance(trial.training_inputs(name), Tensor):
        return order
    split = trial.material.split
    images = (split.forget_train if name == "forget" else split.retain_train).images
    return reading_ahead(order, images, trial.material.ranks.part(trial.config.solver.batch))
