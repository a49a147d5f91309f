"""The published losses of MAGE: of its unlearning and of the four baselines. Of the rows of a batch, some are forget images.

Every loss is a mean over the whole batch, both sets together, as published. ``original`` stands for the outputs of the original
model, ``features`` and ``logits`` for those of the model that unlearns, under the same masks. ``gauss`` is N(0, 1), drawn by the caller.
"""

from enum import StrEnum
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

LABEL_SMOOTHING = 0.1


class Losses(NamedTuple):
    """The two parts of a published loss."""

    retain: Float[Tensor, ""]
    forget: Float[Tensor, ""]

    def total(self, alpha: float) -> Float[Tensor, ""]:
        """Return retain + alpha * forget, which is minimised; maximum loss takes a negative alpha."""
        return self.retain + alpha * self.forget


class ForgetRows(StrEnum):
    """Which rows the forget part of ``squared_losses`` is taken on."""

    FORGET = "forget"
    FORK_BASELINES = "fork_baselines"
    """What the published baselines do by mistake: the forget part falls on the retain images, forget images have none."""


def squared_losses(
    outputs: Float[Tensor, "b n d"],
    original: Float[Tensor, "b n d"],
    target: Float[Tensor, "b n d"],
    forget: Bool[Tensor, " b"],
    rows: ForgetRows = ForgetRows.FORGET,
) -> Losses:
    """Return the loss of encoder unlearning, and of the baselines retain label (on logits) and random encoder.

    Each row counts twice for its own set and not at all for the other, so that a part is the mean of its set where the
    batch is half and half.

    Args:
        outputs: Of the model that unlearns.
        original: What retain images should give.
        target: What forget images should give.
        forget: True for forget images.
        rows: ``FORK_BASELINES`` repeats a mistake of the published baselines.
    """
    on_forget = 2.0 * forget.to(outputs.dtype)
    on_retain = 2.0 - on_forget
    weights = on_forget if rows is ForgetRows.FORGET else on_retain
    return Losses(
        (_squared(outputs, original) * on_retain).mean(), (_squared(outputs, target) * weights).mean()
    )


def token_losses(
    logits: Float[Tensor, "b n v"],
    truth: Int[Tensor, "b n"],
    masked: Bool[Tensor, "b n"],
    forget: Bool[Tensor, " b"],
) -> Losses:
    """Return the cross entropy at masked places, divided by all masked places of the batch in both parts.

    Their sum is the loss of the original's training. ``total(-alpha)`` is the baseline maximum loss; with
    ``noisy_codes`` as the truth of forget images, ``total(alpha)`` is the baseline noisy label.
    """
    losses = functional.cross_entropy(
        logits.transpose(1, 2), truth, label_smoothing=LABEL_SMOOTHING, reduction="none"
    )
    per_image = (losses * masked).sum(dim=1) / masked.sum()
    return Losses(per_image[~forget].sum(), per_image[forget].sum())


def noise_images(
    images: Float[Tensor, "b 3 h w"], gauss: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, "b 3 h w"]:
    """Return the images whose original outputs are the target of forget images: noise as bright as the whole batch."""
    return _like(images, gauss).clamp(0.0, 1.0)


def noisy_codes(truth: Int[Tensor, "b n"], gauss: Float[Tensor, "b n"], codes: int) -> Int[Tensor, "b n"]:
    """Return the labels of the baseline noisy label: Gaussian numbers like the codes' own indices, rounded."""
    return _like(truth.to(gauss.dtype), gauss).round().clamp(0, codes - 1).to(truth.dtype)


def random_features(
    original: Float[Tensor, "b n d"], gauss: Float[Tensor, "b n d"]
) -> Float[Tensor, "b n d"]:
    """Return the target of the baseline random encoder: noise with the mean and spread of the original's features."""
    return _like(original, gauss)


def retain_logits(
    original: Float[Tensor, "b n v"], forget: Bool[Tensor, " b"], gauss: Float[Tensor, "b n v"]
) -> Float[Tensor, "b n v"]:
    """Return the target of the baseline retain label: the original's logits of the batch's retain images, in turn.

    Where the batch has no retain image, the target is ``gauss``.
    """
    retain = original[~forget]
    if len(retain) == 0:
        return gauss
    return retain[torch.arange(len(original), device=original.device) % len(retain)]


def _squared(outputs: Float[Tensor, "b n d"], targets: Float[Tensor, "b n d"]) -> Float[Tensor, " b"]:
    return (outputs - targets).square().mean(dim=(1, 2))


def _like(values: Float[Tensor, "*shape"], gauss: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Scale N(0, 1) to the mean and standard deviation of all values, over the whole batch."""
    return gauss * values.std() + values.mean()
