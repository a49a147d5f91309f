"""Which image of another set looks most like an image where both are visible."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pareto_unlearn.data.image_sets import Images

__all__ = ["nearest_rows"]

BLOCK_VALUES = 2**24
"""Pixel values of either set that are held as float64 at a time."""

LEVELS = 2**16 - 1
"""Steps of a pixel from 0 to 1. Sums of products of whole numbers below 2^16 are exact in float64 for up to a
million values, so neither blocks nor the machine decide between images that are nearly as near."""


def nearest_rows(images: Images, others: Images, hole: Bool[Tensor, "h w"]) -> Int[Tensor, " n"]:
    """Return the row of the nearest other image for every image, on the CPU; of equals, the lowest.

    Nearest is the smallest mean squared error over the visible pixels, rounded to 16 bits. Memory is bounded:
    blocks of the other images are read again for every block of images.

    Args:
        images: in [0, 1].
        others: of the same shape, at least one.
        hole: True where a pixel is removed and does not count; distances are computed where it is.

    Raises:
        ValueError: there are no other images.
    """
    if len(others) == 0:
        raise ValueError("expected at least one image to be nearest, found none")
    found = [_nearest_of(block, others, hole) for _, block in _blocks(images, hole)]
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)


def _nearest_of(block: Float[Tensor, "b d"], others: Images, hole: Bool[Tensor, "h w"]) -> Int[Tensor, " b"]:
    least = block.new_full((len(block),), torch.inf)
    nearest = torch.zeros_like(least, dtype=torch.int64)
    for first, other in _blocks(others, hole):
        # Without the image's own square, which all its distances share. Of equals, min takes the first.
        gaps, places = (other.square().sum(dim=1) - 2.0 * block @ other.T).min(dim=1)
        closer = gaps < least
        nearest[closer], least[closer] = first + places[closer], gaps[closer]
    return nearest.cpu()


def _blocks(images: Images, hole: Bool[Tensor, "h w"]) -> Iterator[tuple[int, Float[Tensor, "b d"]]]:
    """Yield the first row and the visible pixels, as whole numbers in float64, of one block after another."""
    size = max(1, BLOCK_VALUES // images.shape[1:].numel())
    for rows in torch.split(torch.arange(len(images)), size):
        pixels = images[rows].to(hole.device).double()
        yield int(rows[0]), (pixels * LEVELS).round()[..., ~hole].flatten(1)
