"""The unlearning losses published for Palette (code of Li et al., arXiv:2402.00351), for comparison with our own.

Each gives a retain term and a forget term of one mixed batch, to be minimised as ``retain + alpha * forget``. As
published, a term averages over the whole batch, with zeros for the images of the other set: in a batch of halves,
it is half the mean over its own set. Unlike there, the original model never runs with dropout.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pareto_unlearn.models.palette import Palette
from pareto_unlearn.models.palette_inputs import replace_hole_by_noise, unpack


class LossTerms(NamedTuple):
    """What the retain images and the forget images of a batch add to a loss."""

    retain: Float[Tensor, ""]
    forget: Float[Tensor, ""]

    def total(self, alpha: float) -> Float[Tensor, ""]:
        """Return the loss with forget images weighted by ``alpha``."""
        return self.retain + alpha * self.forget


def compute_encoder_loss(
    model: Palette, original: Palette, inputs: Float[Tensor, "b 12 h w"], forget: Bool[Tensor, " b"]
) -> LossTerms:
    """Move the features of forget images to the original's with noise in the hole: the method of Li et al.

    Args:
        model: The model in training.
        original: The model it was.
        inputs: Packed inputs of both sets.
        forget: Which images are to be forgotten.
    """
    with torch.no_grad():
        targets = original.feature_maps(replace_hole_by_noise(inputs, forget))
    return _split(_map_errors(model.feature_maps(inputs), targets), forget)


def compute_random_encoder_loss(
    model: Palette,
    original: Palette,
    inputs: Float[Tensor, "b 12 h w"],
    forget: Bool[Tensor, " b"],
    normal: Sequence[Float[Tensor, "b _ _ _"]],
) -> LossTerms:
    """Move the features of forget images to noise with the statistics of the original's (RANDOM ENCODER).

    Mean and deviation are scalars for each map, over the retain images and the forget images with noise in their hole.

    Args:
        model: The model in training.
        original: The model it was.
        inputs: Packed inputs of both sets.
        forget: Which images are to be forgotten.
        normal: N(0, 1) draws in the shapes of the feature maps, see ``draw_like``.
    """
    with torch.no_grad():
        targets = original.feature_maps(replace_hole_by_noise(inputs, forget))
        chosen = forget[:, None, None, None]
        noise = random_maps(targets, normal)
        targets = [torch.where(chosen, drawn, each) for drawn, each in zip(noise, targets, strict=True)]
    return _split(_map_errors(model.feature_maps(inputs), targets), forget)


def compute_max_loss(
    model: Palette, inputs: Float[Tensor, "b 12 h w"], forget: Bool[Tensor, " b"]
) -> LossTerms:
    """Descend the training loss on retain images and ascend it on forget images (MAX LOSS)."""
    parts = unpack(inputs)
    errors = (parts.hole * (parts.noise - model(inputs))).square()
    terms = _split(errors.mean(dim=(1, 2, 3)), forget)
    return LossTerms(terms.retain, -terms.forget)


def compute_noisy_label_loss(
    model: Palette, inputs: Float[Tensor, "b 12 h w"], forget: Bool[Tensor, " b"]
) -> LossTerms:
    """Train on; for forget images, the hole holds nothing but the noise that is to be predicted (NOISY LABEL)."""
    parts = unpack(inputs)
    errors = (parts.hole * (parts.noise - model(replace_hole_by_noise(inputs, forget)))).square()
    return _split(errors.mean(dim=(1, 2, 3)), forget)


def compute_retain_label_loss(
    model: Palette,
    original: Palette,
    inputs: Float[Tensor, "b 12 h w"],
    forget: Bool[Tensor, " b"],
    fallback: Float[Tensor, "b 3 h w"],
) -> LossTerms:
    """Predict for forget images what the original predicts for retain images of the batch (RETAIN LABEL).

    The image at place i of the batch gets the output of retain image i modulo their number. Errors count outside
    the hole too, and retain images are compared with the original's output instead of the true noise.

    Args:
        model: The model in training.
        original: The model it was.
        inputs: Packed inputs of both sets.
        forget: Which images are to be forgotten.
        fallback: The forget targets of a batch without retain images, N(0, 1) draws.
    """
    with torch.no_grad():
        targets = original(inputs)
    retained = targets[~forget]
    places = torch.arange(len(inputs), device=inputs.device)
    wrong = retained[places % len(retained)] if len(retained) else fallback
    errors = (model(inputs) - torch.where(forget[:, None, None, None], wrong, targets)).square()
    return _split(errors.mean(dim=(1, 2, 3)), forget)


def draw_like(maps: Sequence[Float[Tensor, "b _ _ _"]], generator: torch.Generator) -> list[Tensor]:
    """Return N(0, 1) draws in the shapes of feature maps, on their device."""
    return [
        torch.randn(each.shape, generator=generator, device=generator.device).to(each.device) for each in maps
    ]


def random_maps(
    maps: Sequence[Float[Tensor, "b _ _ _"]], normal: Sequence[Float[Tensor, "b _ _ _"]]
) -> list[Tensor]:
    """Scale N(0, 1) draws to the mean and deviation of each map, scalars over the whole batch."""
    return [draw * each.std() + each.mean() for draw, each in zip(normal, maps, strict=True)]


def _map_errors(maps: Sequence[Tensor], targets: Sequence[Tensor]) -> Float[Tensor, " b"]:
    """Return squared errors per image, averaged within each map and summed over the maps."""
    errors = [(a - b).square().mean(dim=(1, 2, 3)) for a, b in zip(maps, targets, strict=True)]
    return torch.stack(errors).sum(dim=0)


def _split(errors: Float[Tensor, " b"], forget: Bool[Tensor, " b"]) -> LossTerms:
    """Return the mean over the whole batch for each set, with the images of the other as zeros."""
    return LossTerms((errors * ~forget).mean(), (errors * forget).mean())
