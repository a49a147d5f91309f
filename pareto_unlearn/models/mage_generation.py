"""The published generation of MAGE: each round draws codes, keeps the surest and masks the rest again.

Every image of a batch has its own hole and its own draws, so a batch gives the same as its images one by one,
but for draws that the rounding of larger matrix products happens to move. The published code takes the size
of the hole from the first image and is right for one image only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image, ImageFilter
from torch import Tensor

from pareto_unlearn.models.mage_masks import dilate
from pareto_unlearn.models.mage_vqgan import Vqgan


@runtime_checkable
class CodeModel(Protocol):
    """What generation needs of a network that completes codes: ``mage.Mage`` is one."""

    hole: Tensor
    vqgan: Vqgan

    @property
    def mask_word(self) -> int:
        """Return the word that stands for a removed code."""
        ...

    def __call__(self, inputs: Int[Tensor, "b n"]) -> Float[Tensor, "b n v"]:
        """Return logits of the codes at every place."""
        ...

    def see(self, images: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """Return the codes of images with the mask token where the hole is."""
        ...

    def without_hole(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return the images with the hole painted over."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """How codes are drawn.

    The defaults are those published for inpainting; whole images take 12 rounds at temperature 4.5.
    """

    count: int = 20
    temperature: float = 6.0

    def masked_share(self, step: int) -> float:
        """Return the share of all codes that is masked again after round ``step``, counted from 0."""
        return math.cos(math.pi / 2 * (step + 1) / self.count)

    def noise_scale(self, step: int) -> float:
        """Return the factor of the Gumbel noise on the log probabilities in round ``step``."""
        return self.temperature * (1.0 - (step + 1) / self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seam:
    """How generated and visible pixels are joined: the hole grows by ``margin`` pixels, then is blurred."""

    margin: int = 14
    blur: float = 7.0

    @classmethod
    def published(cls, side: int) -> "Seam":
        """Return the published seam, which is for 256 pixels, for an image of ``side`` pixels."""
        return cls(margin=round(14 * side / 256), blur=7 * side / 256)


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """All chance of one generation, image first, then round, then place.

    ``codes`` is uniform in [0, 1), or the drawn codes themselves where a run recorded them; ``gumbel`` is
    standard Gumbel noise. Of both, the rounds that an image skips are never looked at.
    """

    codes: Float[Tensor, "b r n"] | Int[Tensor, "b r n"]
    gumbel: Float[Tensor, "b r n"]


def draw_rounds(batch: int, tokens: int, generator: torch.Generator, rounds: Rounds | None = None) -> Draws:
    """Return all draws of a generation, image after image, so that they do not depend on the batch."""
    count = (rounds or Rounds()).count
    uniform = torch.rand(batch, 2, count, tokens, generator=generator, device=generator.device)
    tiny = torch.finfo(uniform.dtype).tiny
    return Draws(uniform[:, 0], -(-uniform[:, 1].clamp(min=tiny).log()).clamp(min=tiny).log())


def join_draws(each: Sequence[Draws]) -> Draws:
    """Return the chance of several generations as that of one batch."""
    return Draws(torch.cat([one.codes for one in each]), torch.cat([one.gumbel for one in each]))


@torch.no_grad()
def complete(
    model: CodeModel, seen: Int[Tensor, "b n"], draws: Draws, rounds: Rounds | None = None
) -> Int[Tensor, "b n"]:
    """Return the codes of whole images, with those that ``seen`` has in their places.

    A round that would leave at least as much masked as an image has masked from the start is skipped, as
    published: with the default a hole of 8 x 8 codes and its ring take the last 6 rounds.
    """
    rounds = rounds or Rounds()
    chance = Draws(draws.codes.to(seen.device), draws.gumbel.to(seen.device))
    shares = (seen == model.mask_word).double().mean(dim=1)
    current, drawn = seen.clone(), seen.clone()
    for step in range(rounds.count):
        active = (shares > rounds.masked_share(step)).nonzero().flatten()
        if len(active):
            logits = model(current[active])
            codes = draw_codes(logits, chance.codes[active, step])
            drawn[active], current[active] = next_round(
                current[active],
                logits,
                codes,
                chance.gumbel[active, step],
                step,
                rounds,
                model.mask_word,
            )
    return drawn


def next_round(
    current: Int[Tensor, "b n"],
    logits: Float[Tensor, "b n v"],
    codes: Int[Tensor, "b n"],
    gumbel: Float[Tensor, "b n"],
    step: int,
    rounds: Rounds,
    mask_word: int,
) -> tuple[Int[Tensor, "b n"], Int[Tensor, "b n"]]:
    """Return the codes after one round, and what the next round starts from.

    Args:
        current: Codes, with ``mask_word`` where there is none yet.
        logits: The model's, for ``current``.
        codes: One code drawn from the logits at every place.
        gumbel: Standard Gumbel noise.
        step: The round, counted from 0.
        rounds: The schedule.
        mask_word: The mask token.
    """
    unknown = current == mask_word
    drawn = torch.where(unknown, codes, current)
    chosen = logits.float().log_softmax(dim=2).gather(2, drawn[..., None])[..., 0]
    sureness = chosen + rounds.noise_scale(step) * gumbel
    sureness = sureness.masked_fill(~unknown, math.inf)
    wanted = math.floor(current.shape[1] * rounds.masked_share(step))
    again = (unknown.sum(dim=1, keepdim=True) - 1).clamp(max=wanted).clamp(min=1)
    threshold = sureness.sort(dim=1).values.gather(1, again - 1)
    return drawn, drawn.masked_fill(sureness <= threshold, mask_word)


def inpaint(
    model: CodeModel,
    images: Float[Tensor, "b 3 h w"],
    draws: Draws,
    *,
    seen: Int[Tensor, "b n"] | None = None,
    rounds: Rounds | None = None,
    seam: Seam | None = None,
) -> Float[Tensor, "b 3 h w"]:
    """Return the images with the hole generated, values clipped to [0, 1].

    Args:
        model: The network, whose hole is the task's.
        images: In [0, 1]; nothing of what lies in the hole is looked at.
        draws: The chance, for as many images.
        seen: Row 0 of the model's inputs for these images where they are at hand; else they are computed.
        rounds: How codes are drawn.
        seam: How visible pixels are joined to generated ones.
    """
    seen = model.see(images) if seen is None else seen
    generated = model.vqgan.draw(complete(model, seen, draws, rounds))
    return composite(model, images, generated, seam)


def composite(
    model: CodeModel,
    images: Float[Tensor, "b 3 h w"],
    generated: Float[Tensor, "b 3 h w"],
    seam: Seam | None = None,
) -> Float[Tensor, "b 3 h w"]:
    """Return the images with generated pixels in the hole and a soft border around it, clipped to [0, 1].

    What of the images shows through inside the hole is the mean colour it was painted over with, never its
    content.
    """
    soft = soft_hole(model.hole, seam).to(images)
    return (soft * generated + (1.0 - soft) * model.without_hole(images)).clamp(0.0, 1.0)


def soft_hole(hole: Bool[Tensor, "h w"], seam: Seam | None = None) -> Float[Tensor, "h w"]:
    """Return the share of generated pixels: 1 deep in the hole, 0 far from it, in steps of 1/255."""
    seam = seam or Seam.published(len(hole))
    grown = dilate(hole, seam.margin).cpu().numpy()
    # Pillow's Gaussian is a sum of boxes in whole numbers; another would change pixels by more than rounding.
    blurred = Image.fromarray(np.uint8(255) * grown).filter(ImageFilter.GaussianBlur(seam.blur))
    return torch.from_numpy(np.asarray(blurred).astype(np.float32) / np.float32(255))


def draw_codes(
    logits: Float[Tensor, "b n v"], chance: Float[Tensor, "b n"] | Int[Tensor, "b n"]
) -> Int[Tensor, "b n"]:
    """Return one code per place: the first whose cumulated probability passes the uniform number."""
    if not chance.is_floating_point():
        return chance
    cumulated = logits.double().softmax(dim=2).cumsum(dim=2)
    wanted = chance.to(cumulated)[..., None] * cumulated[..., -1:]
    return torch.searchsorted(cumulated, wanted, right=True)[..., 0].clamp(max=logits.shape[2] - 1)
