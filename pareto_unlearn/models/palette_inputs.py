"""What Palette is given for one image, as one opaque tensor: the image and everything that was drawn for it.

Twelve planes: clean image (3), noise shown in the hole of the conditioning image (3), noise of the diffusion
(3), the hole (1, one where a pixel is removed), gamma as the network is told it (1, constant), gamma as the
images are mixed with (1, constant). The last two differ in one case only: the published forget target has
pure noise in the hole, mixed at gamma 0, and is told the gamma of the image it replaces.

Images are in [-1, 1]; all is float32.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PLANES = [3, 3, 3, 1, 1, 1]


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """What chance decides about a batch of images. ``gamma`` is in (0, 1]; the hole is True where removed."""

    condition_noise: Float[Tensor, "b 3 h w"]
    noise: Float[Tensor, "b 3 h w"]
    gamma: Float[Tensor, "b 1"]
    hole: Bool[Tensor, "b 1 h w"]

    def to(self, device: torch.device) -> "Draws":
        """Return the draws on a device."""
        return Draws(
            self.condition_noise.to(device),
            self.noise.to(device),
            self.gamma.to(device),
            self.hole.to(device),
        )


class Parts(NamedTuple):
    """Packed inputs taken apart; the hole is 1.0 where removed, else 0.0."""

    clean: Float[Tensor, "b 3 h w"]
    condition_noise: Float[Tensor, "b 3 h w"]
    noise: Float[Tensor, "b 3 h w"]
    hole: Float[Tensor, "b 1 h w"]
    gamma: Float[Tensor, "b 1"]
    mixed_gamma: Float[Tensor, "b 1"]


def pack(clean: Float[Tensor, "b 3 h w"], draws: Draws) -> Float[Tensor, "b 12 h w"]:
    """Return the inputs of images in [-1, 1] with what was drawn for them."""
    gamma = _as_plane(draws.gamma, clean)
    planes = (clean, draws.condition_noise, draws.noise, draws.hole.to(clean.dtype), gamma, gamma)
    return torch.cat(planes, dim=1)


def unpack(inputs: Float[Tensor, "b 12 h w"]) -> Parts:
    """Return the parts of packed inputs."""
    clean, condition_noise, noise, hole, gamma, mixed = torch.split(inputs, PLANES, dim=1)
    return Parts(clean, condition_noise, noise, hole, gamma[:, :, 0, 0], mixed[:, :, 0, 0])


def replace_hole_by_noise(
    inputs: Float[Tensor, "b 12 h w"], chosen: Bool[Tensor, " b"] | None = None
) -> Float[Tensor, "b 12 h w"]:
    """Return inputs whose noisy image is nothing but its noise inside the hole.

    All else stays as it is: conditioning image, visible pixels, and the gamma the network is told. This is
    what the original model is shown to get the published forget targets.

    Args:
        inputs: Packed inputs.
        chosen: The images to replace; all when None.
    """
    replaced = inputs.clone()
    rows = slice(None) if chosen is None else chosen
    replaced[rows, -1] = 0.0
    return replaced


def build_condition(parts: Parts) -> Float[Tensor, "b 3 h w"]:
    """Return the conditioning image: the clean one with noise in the hole."""
    return parts.clean * (1 - parts.hole) + parts.hole * parts.condition_noise


def mix_noise(parts: Parts) -> Float[Tensor, "b 3 h w"]:
    """Return the noisy image over its whole area, hole or not."""
    gamma = parts.mixed_gamma[:, :, None, None]
    return gamma.sqrt() * parts.clean + (1 - gamma).sqrt() * parts.noise


def build_unet_images(
    parts: Parts, clean: Float[Tensor, "b 3 h w"] | None = None
) -> Float[Tensor, "b 6 h w"]:
    """Return what the U-Net sees: the conditioning image, and the noisy one with its visible pixels clean.

    Args:
        parts: Of packed inputs.
        clean: Other images to become the noisy ones.
    """
    shown = parts if clean is None else parts._replace(clean=clean)
    noisy = mix_noise(shown) * shown.hole + (1 - shown.hole) * shown.clean
    return torch.cat([build_condition(parts), noisy], dim=1)


def _as_plane(level: Float[Tensor, "b 1"], images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    return level[:, :, None, None].to(images.dtype).expand(-1, -1, *images.shape[2:])
