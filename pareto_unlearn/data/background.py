"""Holes filled from what is left of an image: a smooth background in which nothing is learned or drawn."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

__all__ = ["fill_hole"]

SWEEPS_PER_PIXEL = 5
"""Sweeps per pixel of the hole's reach. Each shrinks the error by exp(-2 pi / reach), so what is left of it
is e^-31, below the rounding of float32."""


def fill_hole(images: Float[Tensor, "b c h w"], hole: Bool[Tensor, "h w"]) -> Float[Tensor, "b c h w"]:
    """Return images whose removed pixels are each the mean of their neighbours; the others stay the same.

    This is the harmonic function of the hole (Laplace's equation on the grid, up to four neighbours; beyond
    the image's border there are none), so no filled pixel lies outside the range of the visible ones next to
    the hole. The number of relaxation sweeps follows from the hole alone and all arithmetic is float64: a
    filled image depends on nothing but itself and the hole.

    Args:
        images: in any units.
        hole: True where a pixel is removed, of any form; what the images hold there has no influence.

    Raises:
        ValueError: no pixel is visible.
    """
    if bool(hole.all()):
        raise ValueError(f"expected visible pixels around the hole, found none in {tuple(hole.shape)}")
    if not bool(hole.any()):
        return images
    values = images.double()
    start = values[..., ~hole].mean(dim=-1)[..., None, None]
    filled = torch.where(hole, start, values)
    window = (..., _extent(hole, 1), _extent(hole, 0))
    filled[window] = _relax(filled[window], hole[window])
    return filled.to(images.dtype)


def _extent(hole: Bool[Tensor, "h w"], summed: int) -> slice:
    """Return where the hole and its neighbours are along the axis that is not summed over."""
    places = hole.any(dim=summed).nonzero()
    return slice(max(int(places[0]) - 1, 0), int(places[-1]) + 2)


def _relax(values: Float[Tensor, "b c h w"], hole: Bool[Tensor, "h w"]) -> Float[Tensor, "b c h w"]:
    """Return values that are harmonic in the hole, by successive over-relaxation of a checkerboard's colours.

    The factor is Young's optimum for a square of the hole's reach; a hole of another form has a smaller one,
    beyond which the error shrinks as fast as the factor says.
    """
    reach = max(hole.shape) * (2 if _meets_border(hole) else 1)
    factor = 2.0 / (1.0 + math.sin(math.pi / reach))
    rows, columns = (torch.arange(size, device=hole.device) for size in hole.shape)
    even = (rows[:, None] + columns) % 2 == 0
    count = _sum_of_neighbours(torch.ones_like(values[:1, :1]))
    for _ in range(SWEEPS_PER_PIXEL * reach):
        for chosen in (hole & even, hole & ~even):
            change = _sum_of_neighbours(values) / count - values
            values = torch.where(chosen, values + factor * change, values)
    return values


def _meets_border(hole: Bool[Tensor, "h w"]) -> bool:
    """Tell whether the hole reaches the border, across which nothing flows: as if mirrored, twice as wide."""
    return bool(hole[0].any() | hole[-1].any() | hole[:, 0].any() | hole[:, -1].any())


def _sum_of_neighbours(values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    padded = functional.pad(values, (1, 1, 1, 1))
    upright = padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1]
    return upright + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
