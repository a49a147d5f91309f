"""The baselines of arXiv:2402.00351 (appendix C.6), made of what all families can do.

Distances are mean squared errors where the formulas write norms, as in the published code. A family whose
published code differs from the formulas adds that as a baseline of its own, named ``<method>_fork``.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pareto_unlearn.models.protocol import BaselineLosses, Batch, ImageToImage, Term

__all__ = [
    "ENCODED_AS_BEFORE",
    "PAPER",
    "TRAINED_ON",
    "draw_like",
    "encoder_distance",
    "repeat_in_turn",
    "training_loss",
]


def training_loss(model: ImageToImage, *inputs: Tensor) -> Float[Tensor, ""]:
    """Return the loss of the original's training on inputs, against the second ones where there are two."""
    return model.training_loss(*inputs)


def encoder_distance(model: ImageToImage, inputs: Tensor, wanted: Tensor) -> Float[Tensor, ""]:
    """Return the mean squared error of encoder outputs."""
    return functional.mse_loss(model.encode(inputs), wanted)


def repeat_in_turn(rows: Tensor, count: int) -> Tensor:
    """Return ``count`` rows: all rows in their order, again and again until there are enough."""
    return rows[torch.arange(count, device=rows.device) % len(rows)]


def draw_like(values: Tensor, generator: torch.Generator) -> Float[Tensor, "..."]:
    """Return N(0, 1) in the shape of ``values``, drawn where the generator is and moved to their device."""
    return torch.randn(values.shape, generator=generator, device=generator.device).to(values.device)


def _retain_images_instead(batch: Batch) -> tuple[Tensor, ...]:
    return batch.forget, repeat_in_turn(batch.retain, len(batch.forget))


def _noise_instead(batch: Batch) -> tuple[Tensor, ...]:
    noise = batch.original.sample_noise(len(batch.forget), batch.generator)
    return batch.forget, noise.to(batch.forget.device)


def _noise_as_features(batch: Batch) -> tuple[Tensor, ...]:
    features = batch.original.encode(batch.forget)
    return batch.forget, draw_like(features, batch.generator)


TRAINED_ON = Term(lambda batch: (batch.retain,), training_loss)
"""Retain images are trained on, as the original was."""

ENCODED_AS_BEFORE = Term(lambda batch: (batch.retain, batch.original.encode(batch.retain)), encoder_distance)
"""The encoder keeps the original's outputs on retain images."""

PAPER = {
    "retain_label": BaselineLosses(forget=Term(_retain_images_instead, training_loss), retain=TRAINED_ON),
    "noisy_label": BaselineLosses(forget=Term(_noise_instead, training_loss), retain=TRAINED_ON),
    "random_encoder": BaselineLosses(
        forget=Term(_noise_as_features, encoder_distance), retain=ENCODED_AS_BEFORE, space="encoder"
    ),
}
"""C.6.2 to C.6.4. Of Eq. C.31 the sentence below it counts; the formula itself repeats the noise of Eq. C.34.

For MAGE the formulas name a discriminator, which the published code lacks: its training loss stands
in for it.
"""
