"""What MAGE removes: the hole of a task, in tokens, and the random masks of its training.

Everything random is a tensor the caller passes, or is drawn from a generator the caller passes.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

DROPPED_RATIO = 0.5
"""The share of tokens that training never shows to the encoder; also the least share that is masked."""

MASK_RATE_MEAN, MASK_RATE_STD, MASK_RATE_MAX = 0.55, 0.25, 1.0
"""The truncated normal distribution of the masked share, between ``DROPPED_RATIO`` and the maximum."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenMasks:
    """One draw of the training-time T: what the encoder never sees, and what the loss asks for.

    ``kept_ids`` are the tokens that are not dropped, in ascending order; ``masked`` contains every dropped
    token, and of the kept ones those that are shown as the mask token.
    """

    kept_ids: Int[Tensor, "b k"]
    masked: Bool[Tensor, "b n"]


def dilate(mask: Bool[Tensor, "h w"], margin: int) -> Bool[Tensor, "h w"]:
    """Return the mask grown by ``margin`` in all eight directions."""
    grown: Tensor = functional.max_pool2d(mask.float()[None, None], 2 * margin + 1, stride=1, padding=margin)
    return grown[0, 0] > 0


def masks_from_noise(noise: Float[Tensor, "b n"], num_dropped: int, num_masked: int) -> TokenMasks:
    """Return the masks that drop the tokens of smallest noise, and mask those and the next smallest.

    Args:
        noise: Recorded or drawn, uniform in [0, 1).
        num_dropped: Tokens the encoder never sees.
        num_masked: Tokens the loss asks for, the dropped ones among them.
    """
    if not 0 <= num_dropped <= num_masked <= noise.shape[1]:
        raise ValueError(
            f"expected 0 <= dropped <= masked <= {noise.shape[1]}, found {num_dropped} and {num_masked}"
        )
    order = noise.argsort(dim=1, stable=True)
    ranks = order.argsort(dim=1)
    return TokenMasks(order[:, num_dropped:].sort(dim=1).values, ranks < num_masked)


def draw_mask_rate(generator: torch.Generator) -> float:
    """Draw the masked share of a training step from the published truncated normal distribution."""
    low, high = (
        0.5 * (1 + math.erf((bound - MASK_RATE_MEAN) / (MASK_RATE_STD * math.sqrt(2))))
        for bound in (DROPPED_RATIO, MASK_RATE_MAX)
    )
    uniform = torch.rand((), generator=generator, dtype=torch.float64, device=generator.device)
    rate = MASK_RATE_MEAN + MASK_RATE_STD * float(torch.special.ndtri(low + (high - low) * uniform))
    return min(max(rate, DROPPED_RATIO), MASK_RATE_MAX)
