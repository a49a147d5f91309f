"""The unlearning losses that were published for MAGE, as its code computes them.

Of the rows of a batch, some are forget images. Every loss is a mean over the whole batch, both sets together,
as published: where the batch is half and half, a part is half the mean of its own set, unless its rows count
twice. Noise is an argument, N(0, 1).
"""

from enum import StrEnum

import torch
from torch import Tensor
from torch.nn import functional

from oracles.losses import Losses

LABEL_SMOOTHING = 0.1


class ForgetRows(StrEnum):
    """Which rows the forget part of ``squared_losses`` is taken on.

    ``FORK_BASELINES`` is what the published baselines do by mistake: the forget part falls on the retain
    images, and forget images have none.
    """

    FORGET = "forget"
    FORK_BASELINES = "fork_baselines"


def squared_losses(
    outputs: Tensor,
    original: Tensor,
    target: Tensor,
    forget: Tensor,
    rows: ForgetRows = ForgetRows.FORGET,
) -> Losses:
    """Return the loss of encoder unlearning, and of the baselines retain label and random encoder.

    Each row counts twice for its own set and not at all for the other, so that a part is the mean of its set
    where the batch is half and half. Retain images should give what is in ``original``, forget images what is
    in ``target``.
    """
    on_forget = 2.0 * forget.to(outputs.dtype)
    on_retain = 2.0 - on_forget
    weights = on_forget if rows is ForgetRows.FORGET else on_retain
    return Losses(
        (_squared(outputs, original) * on_retain).mean(), (_squared(outputs, target) * weights).mean()
    )


def token_losses(logits: Tensor, truth: Tensor, masked: Tensor, forget: Tensor) -> Losses:
    """Return the cross entropy at masked places, divided by all masked places of the batch in both parts.

    Their sum is the loss of the original's training. ``total(-alpha)`` is the baseline maximum loss; with
    ``noisy_codes`` as the truth of forget images, ``total(alpha)`` is the baseline noisy label.
    """
    losses = functional.cross_entropy(
        logits.transpose(1, 2), truth, label_smoothing=LABEL_SMOOTHING, reduction="none"
    )
    per_image = (losses * masked).sum(dim=1) / masked.sum()
    return Losses(per_image[~forget].sum(), per_image[forget].sum())


def noise_images(images: Tensor, gauss: Tensor) -> Tensor:
    """Return noise with the statistics of the batch; the original's outputs on it are forget targets."""
    return _like(images, gauss).clamp(0.0, 1.0)


def noisy_codes(truth: Tensor, gauss: Tensor, codes: int) -> Tensor:
    """Return the labels of the baseline noisy label: Gaussian numbers like the codes, rounded."""
    return _like(truth.float(), gauss).round().clamp(0, codes - 1).long()


def random_features(original: Tensor, gauss: Tensor) -> Tensor:
    """Return the random encoder's target: noise with the statistics of the original's features."""
    return _like(original, gauss)


def retain_logits(original: Tensor, forget: Tensor) -> Tensor:
    """Return the target of the baseline retain label: the original's logits of the retain images, in turn."""
    retain = original[~forget]
    return retain[torch.arange(len(original)) % len(retain)]


def _squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean(dim=(1, 2))


def _like(values: Tensor, gauss: Tensor) -> Tensor:
    """Scale N(0, 1) to the mean and standard deviation of all values, over the whole batch."""
    return gauss * values.std() + values.mean()
