"""The tasks as masks: which pixels of a square image are removed and to be generated.

Every mask is Bool "h w", True where a pixel is removed. A ratio is a share of the side, as in the papers: a
centre crop of ratio 0.5 removes a quarter of the area. A mask is exactly what the task says; what cannot be
laid on whole pixels or patches is a ConfigError. Whether a mask fits the grid of a family is for the family
to say, with ``removed_patches``.
"""

from enum import StrEnum

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from pareto_unlearn.config import TaskSection, open_mask_text
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.random_streams import Stream

__all__ = [
    "Edge",
    "build_hole",
    "center",
    "center_patches",
    "extend",
    "outpaint",
    "own_mask",
    "random_patches",
    "removed_patches",
]


WHOLE_TOLERANCE = 1e-6
"""Ratios are decimal fractions; their products with a side miss whole numbers by rounding only."""


class Edge(StrEnum):
    """The side of the image that an extension removes."""

    UP = "up"
    DOWN = "down"
    LEFT = "left"
    RIGHT = "right"


def build_hole(
    task: TaskSection, side: int, patch: int, seed: int, *, whole: bool = True
) -> Bool[Tensor, "h w"]:
    """Return the mask of a task on images of ``side`` pixels, whose model sees patches of ``patch`` pixels.

    Args:
        task: The section of the sweep file.
        side: In pixels.
        patch: The unit of ``patches`` and of a random hole.
        seed: Decides a random hole, which is the same in every image.
        whole: The model can only remove whole patches.

    Raises:
        ConfigError: the hole cannot be laid on whole pixels or patches.
    """
    if task.masks is not None:
        return own_mask(task.masks, side, patch if whole else 1)
    if task.patches is not None:
        return center_patches(side, patch, task.patches)
    size = 0.5 if task.size is None else task.size
    match task.kind:
        case "center" if whole:
            return center_patches(side, patch, _count_centred(size, _grid(side, patch)))
        case "center":
            return center(side, size)
        case "outpaint":
            return outpaint(side, size)
        case "random":
            generator = torch.Generator().manual_seed(seed * 1009 + Stream.HOLE)
            return random_patches(side, patch, size, generator)
        case edge:
            return extend(side, Edge(edge), size)


def own_mask(text: str, side: int, patch: int) -> Bool[Tensor, "h w"]:
    """Return the mask of a user, grown to whole patches: nothing that it removes stays visible.

    Args:
        text: The mask as the sweep holds it.
        side: In pixels; the mask may be a whole number of times as large.
        patch: The side of the patches of the model; 1 leaves every pixel as it is.

    Raises:
        ConfigError: its size does not fit, or nothing or everything would be removed.
    """
    white = torch.from_numpy(np.array(open_mask_text(text), dtype=bool))
    if len(white) % side:
        raise ConfigError(
            f"task.masks: expected a mask of {side} x {side} pixels, as the model has them, or a multiple, "
            f"found {len(white)} x {len(white)}; scale it without smoothing (nearest neighbour)"
        )
    removed = _any_of(_any_of(white, len(white) // side), patch)
    if removed.all():
        raise ConfigError(
            "task.masks: expected a mask that keeps some of the image, found one that touches every patch of "
            f"{patch} pixels"
        )
    return removed.repeat_interleave(patch, 0).repeat_interleave(patch, 1)


def _any_of(mask: Bool[Tensor, "h w"], factor: int) -> Bool[Tensor, "_ _"]:
    grid = _grid(len(mask), factor)
    return mask.view(grid, factor, grid, factor).any(3).any(1)


def center_patches(side: int, patch: int, count: int) -> Bool[Tensor, "h w"]:
    """Remove the central ``count`` x ``count`` patches, such as 4 x 4 or 8 x 8, of ``patch`` pixels each.

    Raises:
        ConfigError: the patches do not tile the image, or so many cannot be centred in their grid.
    """
    grid = _grid(side, patch)
    possible = [number for number in range(1, grid) if (grid - number) % 2 == 0]
    if count not in possible:
        raise ConfigError(
            f"task.size: found a hole of {count} x {count} patches; expected one that can be centred in a "
            f"grid of {grid} x {grid}: {', '.join(map(str, possible))}"
        )
    return _inside(side, (grid - count) // 2 * patch)


def center(side: int, ratio: float) -> Bool[Tensor, "h w"]:
    """Remove the central square of ``ratio`` times the side.

    Raises:
        ConfigError: the square is empty, everything, or cannot be centred on whole pixels.
    """
    return _inside(side, _pixels(side, (1.0 - ratio) / 2, ratio))


def outpaint(side: int, ratio: float) -> Bool[Tensor, "h w"]:
    """Remove a border of ``ratio / 2`` times the side on each of the four sides.

    Raises:
        ConfigError: the border is empty, everything, or not a whole number of pixels.
    """
    return ~_inside(side, _pixels(side, ratio / 2, ratio))


def extend(side: int, edge: Edge, ratio: float) -> Bool[Tensor, "h w"]:
    """Remove ``ratio`` times the side at the named edge: ``Edge.UP`` removes the top rows.

    Raises:
        ConfigError: the strip is empty, everything, or not a whole number of pixels.
    """
    depth = _pixels(side, ratio, ratio)
    hole = torch.zeros(side, side, dtype=torch.bool)
    match edge:
        case Edge.UP:
            hole[:depth] = True
        case Edge.DOWN:
            hole[side - depth :] = True
        case Edge.LEFT:
            hole[:, :depth] = True
        case Edge.RIGHT:
            hole[:, side - depth :] = True
    return hole


def random_patches(side: int, patch: int, ratio: float, generator: torch.Generator) -> Bool[Tensor, "h w"]:
    """Remove patches drawn without replacement: the whole number nearest to ``ratio`` of all.

    Here ``ratio`` is a share of the area. The published MAE rounds down what it keeps, which is the same
    number wherever the ratio gives a whole one.

    Raises:
        ConfigError: the patches do not tile the image, or none or all would be removed.
    """
    grid = _grid(side, patch)
    count = round(ratio * grid * grid) if 0.0 < ratio < 1.0 else 0  # NaN has no nearest number
    if not 0 < count < grid * grid:
        raise ConfigError(
            f"task.size: found {ratio:g}, which removes {count} of {grid * grid} patches; "
            "expected a share that removes some and keeps some"
        )
    drawn = torch.randperm(grid * grid, generator=generator)[:count]
    patches = torch.zeros(grid * grid, dtype=torch.bool)
    patches[drawn] = True
    return patches.view(grid, grid).repeat_interleave(patch, 0).repeat_interleave(patch, 1)


def removed_patches(hole: Bool[Tensor, "h w"], patch: int) -> Bool[Tensor, "rows columns"]:
    """Return which patches a hole removes, for a family that can only remove whole patches.

    Raises:
        ConfigError: the hole cuts a patch, removes nothing or everything, or the patches do not tile the
            image.
    """
    height, width = hole.shape
    rows, columns = _grid(height, patch), _grid(width, patch)
    shares = hole.view(rows, patch, columns, patch).float().mean((1, 3))
    cut = ((shares > 0.0) & (shares < 1.0)).nonzero()
    if len(cut):
        row, column = cut[0].tolist()
        raise ConfigError(
            f"task.size: expected a hole of whole patches of {patch} x {patch} pixels; found {len(cut)} "
            f"patches cut by it, the first in row {row}, column {column} of the {rows} x {columns} grid"
        )
    removed = shares > 0.5
    if removed.all() or not removed.any():
        raise ConfigError(
            f"task.size: expected a hole that removes some patches and keeps some; found "
            f"{int(removed.sum())} of {removed.numel()} removed"
        )
    return removed


def _count_centred(size: float, grid: int) -> int:
    """Return how many patches fit along a central square whose side is ``size`` times the image's."""
    possible = [number for number in range(1, grid) if (grid - number) % 2 == 0]
    count = round(size * grid)
    if count not in possible or abs(size * grid - count) > WHOLE_TOLERANCE * grid:
        raise ConfigError(
            f"task.size: found {size:g}, but the hole must be a centred whole number of the model's "
            f"{grid} x {grid} patches: use one of "
            f"{', '.join(f'{number / grid:g}' for number in possible)}, or task.patches"
        )
    return count


def _grid(side: int, patch: int) -> int:
    if side % patch:
        raise ConfigError(f"expected patches that tile the image; found {patch} pixels in a side of {side}")
    return side // patch


def _pixels(side: int, share: float, ratio: float) -> int:
    """Return ``share`` of the side in pixels, a whole number.

    ``ratio`` is the setting it comes from, which must lie between 0 and 1.
    """
    pixels = share * side
    if not 0.0 < ratio < 1.0 or abs(pixels - round(pixels)) > WHOLE_TOLERANCE:
        raise ConfigError(
            f"task.size: found {ratio:g}; expected a ratio between 0 and 1 whose hole has its edges on whole "
            f"pixels of a side of {side} (here {pixels:g} pixels from the side)"
        )
    return round(pixels)


def _inside(side: int, margin: int) -> Bool[Tensor, "h w"]:
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[margin : side - margin, margin : side - margin] = True
    return mask
