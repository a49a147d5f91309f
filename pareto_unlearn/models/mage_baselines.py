"""The published baselines of MAGE, by the formulas of arXiv:2402.00351, or by its code (``_fork``).

Where the code draws noise with the statistics of some values, it takes them over the whole batch, both sets
together. ``_fork_bug`` repeats a mistake of that code: its forget loss is computed on the retain images, and
the forget images have no loss at all.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from pareto_unlearn.models.baselines import (
    ENCODED_AS_BEFORE,
    PAPER,
    TRAINED_ON,
    draw_like,
    encoder_distance,
    repeat_in_turn,
)
from pareto_unlearn.models.mage import Mage
from pareto_unlearn.models.protocol import BaselineLosses, Batch, Term


def _logit_distance(
    model: Mage, inputs: Int[Tensor, "b r n"], wanted: Float[Tensor, "b n1 v"]
) -> Float[Tensor, ""]:
    return functional.mse_loss(model.all_logits(inputs), wanted)


def _code_loss(model: Mage, inputs: Int[Tensor, "b r n"], truth: Int[Tensor, "b n"]) -> Float[Tensor, ""]:
    return model.code_loss(inputs, truth)


def _logits(batch: Batch) -> Float[Tensor, "b n1 v"]:
    return batch.original.all_logits(batch.retain)  # type: ignore[attr-defined, no-any-return]


def _retain_logits_instead(batch: Batch) -> tuple[Tensor, ...]:
    return batch.forget, repeat_in_turn(_logits(batch), len(batch.forget))


def _other_retain_logits(batch: Batch) -> tuple[Tensor, ...]:
    """Return the retain images with the logits that the forget images of a shuffled batch should have had."""
    count = len(batch.retain)
    places = torch.randperm(count + len(batch.forget), generator=batch.generator)[:count]
    return batch.retain, _logits(batch)[places % count]


def _noisy_codes(batch: Batch) -> tuple[Tensor, ...]:
    """Return the forget images with noise like the codes' own indices, rounded to codes that exist."""
    truth = torch.cat([batch.retain, batch.forget])[:, 1]
    last: int = batch.original.shape.tokenizer.codes - 1  # type: ignore[attr-defined]
    noise = _noise_like(truth.float(), batch.generator).round().clamp(0, last).to(truth.dtype)
    return batch.forget, noise[len(batch.retain) :]


def _random_features(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return noise in place of the features of retain images, and in place of those of forget images."""
    features = batch.original.encode(torch.cat([batch.retain, batch.forget]))
    noise = _noise_like(features, batch.generator)
    return noise[: len(batch.retain)], noise[len(batch.retain) :]


def _noise_like(values: Tensor, generator: torch.Generator) -> Float[Tensor, "..."]:
    """Return N(0, 1) scaled to the mean and standard deviation of all values."""
    return draw_like(values, generator) * values.std() + values.mean()


_KEPT_LOGITS = Term(lambda batch: (batch.retain, _logits(batch)), _logit_distance)

BASELINES = PAPER | {
    "retain_label_fork": BaselineLosses(
        forget=Term(_retain_logits_instead, _logit_distance), retain=_KEPT_LOGITS
    ),
    "retain_label_fork_bug": BaselineLosses(
        forget=Term(_other_retain_logits, _logit_distance), retain=_KEPT_LOGITS
    ),
    "noisy_label_fork": BaselineLosses(forget=Term(_noisy_codes, _code_loss), retain=TRAINED_ON),
    "random_encoder_fork": BaselineLosses(
        forget=Term(lambda batch: (batch.forget, _random_features(batch)[1]), encoder_distance),
        retain=ENCODED_AS_BEFORE,
        space="encoder",
    ),
    "random_encoder_fork_bug": BaselineLosses(
        forget=Term(lambda batch: (batch.retain, _random_features(batch)[0]), encoder_distance),
        retain=ENCODED_AS_BEFORE,
        space="encoder",
    ),
}
