"""Filling holes with Palette: from noise to an image, step by step.

The schedule is always the one that was asked for, and its steps are all taken unless fewer are asked for.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models.palette_inputs import Parts, build_condition
from pareto_unlearn.models.palette_schedule import NoiseSchedule, respace_schedule

NoiseSource = Callable[[], Float[Tensor, "b 3 h w"]]
"""Returns the next noise of a batch; asked once for every step that adds noise, in the order of the steps."""

Denoiser = Callable[[Float[Tensor, "b 6 h w"], Float[Tensor, "b 1"]], Float[Tensor, "b 3 h w"]]
"""Returns the predicted noise for a conditioning image beside a noisy image, and gamma."""


class Method(StrEnum):
    """How one step leads to the next.

    ``ANCESTRAL`` draws from the posterior given the predicted image, as published. ``DDIM``
    (arXiv:2010.02502) follows the predicted noise, and needs far fewer steps.
    """

    ANCESTRAL = "ancestral"
    DDIM = "ddim"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample: the method, and how many steps of the schedule (None: all of them).

    ``eta`` belongs to DDIM: the share of the posterior's standard deviation that is drawn, 0 (nothing) to 1.
    """

    method: Method = Method.ANCESTRAL
    steps: int | None = None
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise ConfigError(f"sampling.eta: expected 0 to 1, found {self.eta:g}")
        if self.eta and self.method is not Method.DDIM:
            raise ConfigError(f"sampling.eta: belongs to ddim, found {self.eta:g} with {self.method}")


def fill_hole(
    denoise: Denoiser, parts: Parts, schedule: NoiseSchedule, sampling: Sampling, noise: NoiseSource
) -> Float[Tensor, "b 3 h w"]:
    """Return the images in [-1, 1] with their holes filled and their visible pixels exactly kept."""
    return deque(iterate_filling(denoise, parts, schedule, sampling, noise), maxlen=1).pop()


def iterate_filling(
    denoise: Denoiser, parts: Parts, schedule: NoiseSchedule, sampling: Sampling, noise: NoiseSource
) -> Iterator[Float[Tensor, "b 3 h w"]]:
    """Yield the images before the first step, which are the conditioning images, and after every step.

    Of the parts, only the clean image, the noise of the conditioning image and the hole count. The clean
    image's pixels inside the hole have no influence.
    """
    steps = len(schedule.gammas) if sampling.steps is None else sampling.steps
    schedule = respace_schedule(schedule, steps).to(parts.clean.device)
    step = {Method.ANCESTRAL: _step_ancestral, Method.DDIM: _step_ddim}[sampling.method]
    condition = build_condition(parts)
    images = condition
    yield images
    for index in reversed(range(steps)):
        with torch.no_grad():
            gamma = schedule.gammas[index].expand(len(images), 1)
            predicted = denoise(torch.cat([condition, images], dim=1), gamma)
            clean = predict_clean(images, predicted, schedule, index)
            images = step(images, clean, schedule, index, sampling.eta, noise)
            images = parts.clean * (1 - parts.hole) + parts.hole * images
        yield images


def noise_from_generators(
    generators: Sequence[torch.Generator], side: int, device: torch.device
) -> NoiseSource:
    """Return a source with a generator for every image, so that an image does not depend on its batch."""

    def draw() -> Float[Tensor, "b 3 h w"]:
        planes = [
            torch.randn(3, side, side, generator=generator, device=generator.device)
            for generator in generators
        ]
        return torch.stack(planes).to(device)

    return draw


def predict_clean(
    images: Float[Tensor, "b 3 h w"], noise: Float[Tensor, "b 3 h w"], schedule: NoiseSchedule, index: int
) -> Float[Tensor, "b 3 h w"]:
    """Return the clean images that noisy ones and their noise imply, clipped to [-1, 1]."""
    clean = schedule.sqrt_recip_gammas[index] * images - schedule.sqrt_recipm1_gammas[index] * noise
    return clean.clamp(-1.0, 1.0)


def _step_ancestral(
    images: Tensor, clean: Tensor, schedule: NoiseSchedule, index: int, _eta: float, noise: NoiseSource
) -> Tensor:
    mean = schedule.posterior_mean_coef1[index] * clean + schedule.posterior_mean_coef2[index] * images
    if index == 0:
        return mean
    return mean + noise() * (0.5 * schedule.posterior_log_variance_clipped[index]).exp()


def _step_ddim(
    images: Tensor, clean: Tensor, schedule: NoiseSchedule, index: int, eta: float, noise: NoiseSource
) -> Tensor:
    if index == 0:
        return clean
    # The noise that fits the clipped image, not the predicted one.
    implied = (schedule.sqrt_recip_gammas[index] * images - clean) / schedule.sqrt_recipm1_gammas[index]
    root = 1 / schedule.sqrt_recip_gammas[index - 1]
    remaining = (schedule.sqrt_recipm1_gammas[index - 1] * root).square()
    drawn = eta**2 * schedule.posterior_log_variance_clipped[index].exp()
    moved = root * clean + (remaining - drawn).clamp(min=0.0).sqrt() * implied
    return moved + drawn.sqrt() * noise() if eta else moved
