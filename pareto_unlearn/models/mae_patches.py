"""Patches of images: cutting, normalising, placing and masking them, as masked autoencoders do."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

NORM_EPSILON = 1e-6
"""Of every layer norm, and beside the variance of a patch."""


@dataclass(frozen=True, slots=True, eq=False)
class Masking:
    """Which patches of each image the encoder sees.

    ``keep`` numbers them in the order they are seen; ``restore`` says, for each place of the image, where its
    patch is in the sequence of kept, then removed patches.
    """

    keep: Int[Tensor, "b v"]
    restore: Int[Tensor, "b n"]
    removed: Bool[Tensor, "b n"]


def mask_by_noise(noise: Float[Tensor, "b n"], kept: int) -> Masking:
    """Return the random masking of the published training: it keeps the ``kept`` patches of smallest noise.

    The published ratio 0.75 keeps 49 of 196. ``noise`` is one draw per patch; equal draws keep their order.
    """
    order = noise.argsort(dim=1, stable=True)
    restore = order.argsort(dim=1)
    return Masking(order[:, :kept], restore, restore >= kept)


def patchify(images: Float[Tensor, "b 3 h w"], patch: int) -> Float[Tensor, "b n p"]:
    """Cut images into patches; within one, values go by row, column, channel."""
    batch, channels, height, width = images.shape
    grid = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)


def unpatchify(patches: Float[Tensor, "b n p"], patch: int, side: int) -> Float[Tensor, "b 3 h w"]:
    """Put patches back into images."""
    grid = patches.reshape(len(patches), side // patch, side // patch, patch, patch, 3)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), 3, side, side)


def normalise_patches(patches: Float[Tensor, "b n p"]) -> Float[Tensor, "b n p"]:
    """Return patches relative to their own mean and deviation (unbiased variance)."""
    mean, deviation = patch_statistics(patches)
    return (patches - mean) / deviation


def position_embedding(width: int, grid: int) -> Float[Tensor, "1 n d"]:
    """Return the fixed sine and cosine positions: zeros for the class token, then the grid row by row.

    The first half of the channels tells the column, the second the row; each half holds sines, then cosines.
    """
    frequencies = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = line.repeat(grid, 1), line.repeat_interleave(grid, 0)
    places = torch.cat([columns, rows], dim=1)
    return torch.cat([torch.zeros_like(places[:1]), places])[None].float()


def grid_of(positions: Float[Tensor, "1 n d"]) -> int:
    """Return along how many patches positions lie, the class token aside; 0 where that is no square."""
    grid = math.isqrt(positions.shape[1] - 1)
    return grid if grid * grid == positions.shape[1] - 1 else 0


def resize_positions(positions: Float[Tensor, "1 n d"], grid: int) -> Float[Tensor, "1 m d"]:
    """Return positions for another number of patches along a side: the grid bicubically, the token as it is.

    Sines and cosines of places that no training saw would mean nothing to the network; the places between
    those that it saw do.
    """
    start, places = positions[:, :1].float(), positions[:, 1:].double()
    old = grid_of(positions)
    plane = places.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(plane, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([start, resized.permute(0, 2, 3, 1).flatten(1, 2).float()], dim=1)


def patch_statistics(
    patches: Float[Tensor, "b n p"],
) -> tuple[Float[Tensor, "b n 1"], Float[Tensor, "b n 1"]]:
    """Return mean and deviation of every patch, as its normalisation takes them."""
    variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
    return mean, (variance + NORM_EPSILON).sqrt()
