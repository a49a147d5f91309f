"""The unlearning losses that were published for Palette (Li et al., arXiv:2402.00351), as its code has them.

Of the rows of a batch, some are forget images. A term averages over the whole batch, with zeros for the
images of the other set: in a batch of halves it is half the mean over its own set. Unlike there, the original
model never runs with dropout. Noise is an argument, N(0, 1).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from oracles.losses import Losses
from pareto_unlearn.models.palette import Palette
from pareto_unlearn.models.palette_inputs import replace_hole_by_noise, unpack


def encoder_losses(model: Palette, original: Palette, inputs: Tensor, forget: Tensor) -> Losses:
    """Move the features of forget images to the original's with noise in the hole: the method of Li et al."""
    with torch.no_grad():
        targets = original.feature_maps(replace_hole_by_noise(inputs, forget))
    return _split(_map_errors(model.feature_maps(inputs), targets), forget)


def random_encoder_losses(
    model: Palette, original: Palette, inputs: Tensor, forget: Tensor, normal: Sequence[Tensor]
) -> Losses:
    """Move the features of forget images to noise with the statistics of the original's (RANDOM ENCODER).

    Mean and deviation are scalars for each map, over the retain images and the forget images with noise in
    their hole.
    """
    with torch.no_grad():
        maps = original.feature_maps(replace_hole_by_noise(inputs, forget))
        noise = [draw * each.std() + each.mean() for draw, each in zip(normal, maps, strict=True)]
        chosen = forget[:, None, None, None]
        targets = [torch.where(chosen, drawn, each) for drawn, each in zip(noise, maps, strict=True)]
    return _split(_map_errors(model.feature_maps(inputs), targets), forget)


def max_losses(model: Palette, inputs: Tensor, forget: Tensor) -> Losses:
    """Descend the training loss on retain images and ascend it on forget images (MAX LOSS)."""
    parts = unpack(inputs)
    terms = _split(_mean((parts.hole * (parts.noise - model(inputs))).square()), forget)
    return Losses(terms.retain, -terms.forget)


def noisy_label_losses(model: Palette, inputs: Tensor, forget: Tensor) -> Losses:
    """Train on; for forget images, the hole holds nothing but the noise to predict (NOISY LABEL)."""
    parts = unpack(inputs)
    outputs = model(replace_hole_by_noise(inputs, forget))
    return _split(_mean((parts.hole * (parts.noise - outputs)).square()), forget)


def retain_label_losses(
    model: Palette, original: Palette, inputs: Tensor, forget: Tensor, fallback: Tensor
) -> Losses:
    """Predict for forget images what the original predicts for retain images of the batch (RETAIN LABEL).

    The image at place i of the batch gets the output of retain image i modulo their number, or of
    ``fallback`` in a batch without retain images. Errors count outside the hole too, and retain images are
    compared with the original's output instead of the true noise.
    """
    with torch.no_grad():
        targets = original(inputs)
    retained = targets[~forget]
    places = torch.arange(len(inputs))
    wrong = retained[places % len(retained)] if len(retained) else fallback
    wanted = torch.where(forget[:, None, None, None], wrong, targets)
    return _split(_mean((model(inputs) - wanted).square()), forget)


def _map_errors(maps: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Return squared errors per image, averaged within each map and summed over the maps."""
    return torch.stack([_mean((a - b).square()) for a, b in zip(maps, targets, strict=True)]).sum(dim=0)


def _mean(values: Tensor) -> Tensor:
    return values.mean(dim=(1, 2, 3))


def _split(errors: Tensor, forget: Tensor) -> Losses:
    """Return the mean over the whole batch for each set, with the images of the other as zeros."""
    return Losses((errors * ~forget).mean(), (errors * forget).mean())
