"""The published baselines of MAGE: the formulas of arXiv:2402.00351, and its code where that differs (``_fork``).

The code's statistics are those of the whole batch of both sets. ``_fork_bug`` repeats a mistake of it: the forget part
falls on the retain images, and forget images have none.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from pareto_unlearn.models.baselines import (
    ENCODED_AS_BEFORE,
    PAPER,
    TRAINED_ON,
    encoder_distance,
    repeat_in_turn,
)
from pareto_unlearn.models.mage import Mage
from pareto_unlearn.models.mage_losses import noisy_codes, random_features
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
    """Give retain images what the forget images of a shuffled batch should have had: the logits for their places in it."""
    count = len(batch.retain)
    places = torch.randperm(count + len(batch.forget), generator=batch.generator)[:count]
    return batch.retain, _logits(batch)[places % count]


def _noisy_codes(batch: Batch) -> tuple[Tensor, ...]:
    truth = torch.cat([batch.retain, batch.forget])[:, 1]
    gauss = torch.randn(truth.shape, generator=batch.generator).to(truth.device)
    codes = batch.original.shape.tokenizer.codes  # type: ignore[attr-defined]
    return batch.forget, noisy_codes(truth, gauss, codes)[len(batch.retain) :]


def _random_features(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return noise like the features of retain images, then like those of forget images."""
    features = batch.original.encode(torch.cat([batch.retain, batch.forget]))
    gauss = torch.randn(features.shape, generator=batch.generator).to(features.device)
    noise = random_features(features, gauss)
    return noise[: len(batch.retain)], noise[len(batch.retain) :]


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
