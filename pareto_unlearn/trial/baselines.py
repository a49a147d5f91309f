"""The problems of other methods: rules and courses, weighted sums, and each family's published losses."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.data import seeded_generator
from pareto_unlearn.models import Batch, Term, family_of
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.records import Unit
from pareto_unlearn.solver import COURSES, RIVALS, FixedMultiplier, StepLoss
from pareto_unlearn.trial.context import Trial
from pareto_unlearn.trial.courses import course
from pareto_unlearn.trial.distances import FORGET, RETAIN, StepInputs
from pareto_unlearn.trial.forward import run_in_steps
from pareto_unlearn.trial.problem import RAW, Problem, settings_of, units_of
from pareto_unlearn.trial.step_losses import batch_orders, training_losses, unlearning_losses


def baseline(trial: Trial) -> Problem:
    """Return the problem of a baseline at the weight that the trial is planned with."""
    spec = trial.spec
    if spec.weight is None:
        raise ValueError(f"trial {spec.trial_id}: baseline {spec.method} needs a weight, found none")
    if spec.method in COURSES:
        return course(trial)
    if spec.method in RIVALS:
        units = units_of(trial)
        forget, retain = unlearning_losses(trial, units)
        return Problem(forget, retain, RIVALS[spec.method](spec.weight), settings_of(trial.config), units)
    own = {"composite": _composite, "max_loss": _max_loss, "retain_only": _retain_only}
    return own.get(spec.method, _published)(trial, spec.weight)


def _composite(trial: Trial, weight: float) -> Problem:
    """Eq. 10, arXiv:2402.00351: the weighted sum of both objectives, raw."""
    forget, retain = unlearning_losses(trial, RAW)
    return Problem(forget, retain, FixedMultiplier(weight=weight), settings_of(trial.config), RAW)


def _max_loss(trial: Trial, weight: float) -> Problem:
    """Appendix C.6.1, arXiv:2402.00351: ascend the training loss on forget images, descend it on others.

    The unit turns the negated forget loss back into a loss for the curves.
    """
    forget, retain = training_losses(trial)
    rule, units = FixedMultiplier(weight=weight), (Unit(scale=-1.0), Unit())
    return Problem(lambda step: -forget(step), retain, rule, settings_of(trial.config), units, space="output")


def _retain_only(trial: Trial, _: float) -> Problem:
    """Train on with retain images alone; the loss of forget images is only watched."""
    forget, retain = training_losses(trial)
    return Problem(
        forget, retain, FixedMultiplier(weight=0.0), settings_of(trial.config), RAW, space="output"
    )


def _published(trial: Trial, weight: float) -> Problem:
    """Appendix C.6.2 to C.6.4, arXiv:2402.00351, as the family has it; its draws depend on seed and step."""
    method = family_of(trial.config.model.family).baselines[trial.spec.method]
    batch_at = _batches_of(trial)
    forget, retain = (
        _term_loss(trial, term, place, batch_at)
        for term, place in ((method.forget, FORGET), (method.retain, RETAIN))
    )
    rule = FixedMultiplier(weight=weight)
    return Problem(forget, retain, rule, settings_of(trial.config), RAW, space=method.space)


def _term_loss(trial: Trial, term: Term, place: int, batch_at: Callable[[int, int], Batch]) -> StepLoss:
    """Return one half of a published loss; ``place`` keeps the draws of the halves apart."""
    loss, ranks = run_in_steps(trial.config, partial(term.loss, trial.material.model)), trial.material.ranks

    def compute(step: int) -> Float[Tensor, ""]:
        batch = batch_at(step, place)
        with torch.no_grad():
            given = term.make_targets(batch)
        return ranks.alike(loss(*given))

    return compute


def _batches_of(trial: Trial) -> Callable[[int, int], Batch]:
    """Return the function from a step and a half of the loss to all that the half may look at.

    Its draws are those of a whole batch, so every rank looks at all of it.
    """
    trial = trial.alone()
    inputs, original = StepInputs(trial.material, trial.spec.seed), trial.material.original()
    forget_order, retain_order = batch_orders(trial)

    def batch_at(step: int, place: int) -> Batch:
        return Batch(
            original=original,
            forget=inputs.forget(forget_order(step), step).inputs,
            retain=inputs.retain(retain_order(step), step).inputs,
            generator=seeded_generator(trial.spec.seed, Stream.BASELINE, place, step),
        )

    return batch_at
