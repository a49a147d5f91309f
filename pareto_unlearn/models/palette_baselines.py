"""The published baselines of Palette, by the formulas of arXiv:2402.00351, or by its code (``_fork``).

Noisy label is the same in both. Every term is a mean over the images of its own set, whereas the published
code divides by the size of the whole batch: in a batch of halves, its terms are half of these.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pareto_unlearn.models.baselines import (
    ENCODED_AS_BEFORE,
    PAPER,
    TRAINED_ON,
    draw_like,
    encoder_distance,
    repeat_in_turn,
    training_loss,
)
from pareto_unlearn.models.palette import Palette, flatten_maps
from pareto_unlearn.models.palette_inputs import replace_hole_by_noise
from pareto_unlearn.models.protocol import BaselineLosses, Batch, Term


def _output_distance(
    model: Palette, inputs: Float[Tensor, "b 12 h w"], wanted: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, ""]:
    return functional.mse_loss(model(inputs), wanted)


def _noise_as_maps(batch: Batch) -> tuple[Tensor, ...]:
    maps = batch.original.feature_maps(batch.forget)  # type: ignore[attr-defined]
    return batch.forget, flatten_maps([draw_like(each, batch.generator) for each in maps])


def _noise_like_maps(batch: Batch) -> tuple[Tensor, ...]:
    """Return the forget images with noise that has the statistics of each map over both sets."""
    count = len(batch.retain)
    inputs = torch.cat([batch.retain, replace_hole_by_noise(batch.forget)])
    maps = batch.original.feature_maps(inputs)  # type: ignore[attr-defined]
    noise = [draw_like(each, batch.generator) * each.std() + each.mean() for each in maps]
    return batch.forget, flatten_maps([each[count:] for each in noise])


def _retain_outputs_instead(batch: Batch) -> tuple[Tensor, ...]:
    return batch.forget, repeat_in_turn(batch.original(batch.retain), len(batch.forget))


BASELINES = PAPER | {
    "retain_label_fork": BaselineLosses(
        forget=Term(_retain_outputs_instead, _output_distance),
        retain=Term(lambda batch: (batch.retain, batch.original(batch.retain)), _output_distance),
    ),
    # Eq. C.32: the image is nothing but the noise that is to be predicted.
    "noisy_label": BaselineLosses(
        forget=Term(lambda batch: (replace_hole_by_noise(batch.forget),), training_loss), retain=TRAINED_ON
    ),
    "random_encoder": BaselineLosses(
        forget=Term(_noise_as_maps, encoder_distance), retain=ENCODED_AS_BEFORE, space="encoder"
    ),
    "random_encoder_fork": BaselineLosses(
        forget=Term(_noise_like_maps, encoder_distance), retain=ENCODED_AS_BEFORE, space="encoder"
    ),
}
