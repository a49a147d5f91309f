"""The unlearning losses as trials compute them, in the form of the published ones."""

import torch
from oracles.losses import Losses
from torch import Tensor

from pareto_unlearn.models import Batch, ImageToImage, family_of
from pareto_unlearn.objectives import NoiseTarget, Objectives, feature_function


def baseline_term(model: ImageToImage, batch: Batch, method: str, part: str) -> Tensor:
    """Return one of the two losses of a published baseline."""
    term = getattr(family_of(model.family).baselines[method], part)
    with torch.no_grad():
        given = term.make_targets(batch)
    return term.loss(model, *given)


def baseline_losses(model: ImageToImage, batch: Batch, method: str) -> Losses:
    """Return both losses of a published baseline; each starts from the generator as it was."""
    state, losses = batch.generator.get_state(), []
    for part in Losses._fields:
        batch.generator.set_state(state)
        losses.append(baseline_term(model, batch, method, part))
    return Losses(*losses)


def max_losses(model: ImageToImage, retain: Tensor, forget: Tensor) -> Losses:
    """Return what maximum loss descends: the loss of the original's training, negated for forget images."""
    return Losses(model.training_loss(retain), -model.training_loss(forget))


def encoder_objectives(
    model: ImageToImage, original: ImageToImage, retain: Tensor, forget: Tensor, noise: Tensor
) -> Losses:
    """Return f2 and f1 of encoder outputs, where each forget image has an input of noise of its own."""
    features, kept = (feature_function(one, "encoder") for one in (model, original))
    objectives = Objectives("mse", "draws")
    with torch.no_grad():
        rows, wanted = kept(noise), kept(retain)
    target = NoiseTarget(rows, rows.mean(dim=0), 0.0)
    return Losses(
        objectives.paired_per_image(features(retain), wanted).mean(),
        objectives.forget_loss(features(forget), target, torch.arange(len(forget))),
    )
