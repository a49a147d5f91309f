"""Noise schedules of Palette: how much of the clean image is left at every step.

``gamma`` is the share of the clean image's variance in the noisy one (alpha bar elsewhere). A schedule is
always named by whoever samples: the published checkpoint holds the one of its training, the public
implementation samples with another, and the unlearning code of Li et al. with that of the training while its
configuration says otherwise.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pareto_unlearn.errors import ConfigError

SMALLEST_VARIANCE = 1e-20
"""Under the logarithm, for the last step, which adds no noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSchedule:
    """Noise variances of ``steps`` steps, growing linearly from ``first`` to ``last``.

    The defaults are what the published checkpoint was trained with, and holds.
    """

    steps: int = 2000
    first: float = 1e-6
    last: float = 0.01


UPSTREAM_TEST = LinearSchedule(steps=1000, first=1e-4, last=0.09)
"""What the public implementation of Palette samples with."""


@dataclass(frozen=True, slots=True, eq=False)
class NoiseSchedule:
    """A schedule as tensors over its steps, float32, under the names of the checkpoint's buffers."""

    gammas: Float[Tensor, " t"]
    sqrt_recip_gammas: Float[Tensor, " t"]
    sqrt_recipm1_gammas: Float[Tensor, " t"]
    posterior_log_variance_clipped: Float[Tensor, " t"]
    posterior_mean_coef1: Float[Tensor, " t"]
    posterior_mean_coef2: Float[Tensor, " t"]

    def to(self, device: torch.device) -> "NoiseSchedule":
        """Return the schedule on a device."""
        return NoiseSchedule(**{name: getattr(self, name).to(device) for name in SCHEDULE_NAMES})


SCHEDULE_NAMES = tuple(field.name for field in fields(NoiseSchedule))


def build_schedule(linear: LinearSchedule) -> NoiseSchedule:
    """Return the tensors of a linear schedule, computed in float64."""
    betas = np.linspace(linear.first, linear.last, linear.steps, dtype=np.float64)
    return _from_levels(np.cumprod(1.0 - betas), betas)


def respace_schedule(schedule: NoiseSchedule, steps: int) -> NoiseSchedule:
    """Return a schedule of fewer steps, through evenly spaced levels of another.

    With all steps asked for, it is the schedule itself. Otherwise the noisiest level is kept, and from two
    steps on the cleanest too.

    Raises:
        ConfigError: more steps are asked for than there are, or none.
    """
    available = len(schedule.gammas)
    if not 1 <= steps <= available:
        raise ConfigError(f"sampling steps: expected 1 to {available} (steps of the schedule), found {steps}")
    if steps == available:
        return schedule
    kept = np.linspace(available - 1, 0, steps).round().astype(np.int64)[::-1]  # one step: the noisiest
    # Not from gammas: in float32 the first levels are too close to 1 to tell how much noise they have.
    ratios = schedule.sqrt_recipm1_gammas.detach().cpu().double().numpy() ** 2
    gammas = 1.0 / (1.0 + ratios[kept])
    # The levels cannot come from betas: where a step leaves less than 1e-16 of the image, its beta rounds to
    # 1 and the level to 0.
    return _from_levels(gammas, 1.0 - gammas / np.append(1.0, gammas[:-1]))


def interpolate_level(
    gammas: Float[Tensor, " t"], step: Int[Tensor, " b"], share: Float[Tensor, "b 1"]
) -> Float[Tensor, "b 1"]:
    """Return noise levels between those of two neighbouring steps, as in training.

    Args:
        gammas: The levels of the training schedule.
        step: The noisier of the two steps, 1 or larger.
        share: Where between them, 0 (the cleaner) to 1.
    """
    cleaner = gammas[step - 1, None]
    return (gammas[step, None] - cleaner) * share + cleaner


def _from_levels(gammas: np.ndarray, betas: np.ndarray) -> NoiseSchedule:
    """Return the tensors of levels and of the variance that each adds to the one before."""
    previous = np.append(1.0, gammas[:-1])
    alphas = gammas / previous
    variance = betas * (1.0 - previous) / (1.0 - gammas)
    columns = {
        "gammas": gammas,
        "sqrt_recip_gammas": np.sqrt(1.0 / gammas),
        "sqrt_recipm1_gammas": np.sqrt(1.0 / gammas - 1.0),
        "posterior_log_variance_clipped": np.log(np.maximum(variance, SMALLEST_VARIANCE)),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1.0 - gammas),
        "posterior_mean_coef2": (1.0 - previous) * np.sqrt(alphas) / (1.0 - gammas),
    }
    tensors = {name: torch.tensor(column, dtype=torch.float32) for name, column in columns.items()}
    return NoiseSchedule(**tensors)
