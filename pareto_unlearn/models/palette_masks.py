"""The holes Palette was trained with: a random box together with brush strokes ("hybrid" masks).

All sizes are those of the published training at 256 pixels, and scale with the side of the image. The strokes
follow Yu et al., "Free-form image inpainting with gated convolution" (arXiv:1806.03589).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image, ImageDraw
from torch import Tensor

PUBLISHED_SIDE = 256

BOX_SIDE = 128
"""Largest side of the box; each side is up to ``BOX_SHRINK`` shorter, cut from the top and from the left."""
BOX_SHRINK = 20
BOX_MARGIN = 20
"""Between the uncut box and the edge of the image."""

STROKES = (1, 3)
VERTICES = (4, 11)
WIDTHS = (12, 39)
"""Smallest and largest values, drawn uniformly."""

MEAN_ANGLE, ANGLE_SPREAD = 2 * math.pi / 5, 2 * math.pi / 15
"""Radians. Segments turn by about the mean angle, to alternating sides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stroke:
    """A brush stroke: a chain of segments with round joints, in pixels (x, y)."""

    points: tuple[tuple[int, int], ...]
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridHole:
    """A drawn hole: a box (top, left, height, width in pixels) and strokes."""

    box: tuple[int, int, int, int]
    strokes: tuple[Stroke, ...]


def draw_hybrid_hole(side: int, generator: torch.Generator) -> HybridHole:
    """Draw a hole for a square image of ``side`` pixels."""
    count = _integer(*STROKES, generator)
    strokes = tuple(_draw_stroke(side, generator) for _ in range(count))
    return HybridHole(box=_draw_box(side, generator), strokes=strokes)


def rasterise_hole(hole: HybridHole, side: int) -> Bool[Tensor, "side side"]:
    """Return the pixels a drawn hole removes."""
    image = Image.new("1", (side, side))
    canvas = ImageDraw.Draw(image)
    for stroke in hole.strokes:
        canvas.line(stroke.points, fill=1, width=stroke.width)
        radius = stroke.width // 2
        for x, y in stroke.points:
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    removed = torch.from_numpy(np.array(image, dtype=bool))
    top, left, height, width = hole.box
    removed[top : top + height, left : left + width] = True
    return removed


def _draw_box(side: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    largest, shrink, margin = (_scaled(size, side) for size in (BOX_SIDE, BOX_SHRINK, BOX_MARGIN))
    last = max(margin, side - margin - largest - 1)
    top, left = (_integer(margin, last, generator) for _ in range(2))
    cut_top, cut_left = (_integer(0, shrink, generator) for _ in range(2))
    return top + cut_top, left + cut_left, largest - cut_top, largest - cut_left


def _draw_stroke(side: int, generator: torch.Generator) -> Stroke:
    count = _integer(*VERTICES, generator)
    below, above, *shares = torch.rand(2 + count, generator=generator, device=generator.device).tolist()
    lengths = torch.randn(count, generator=generator, device=generator.device).tolist()
    typical = math.hypot(side, side) / 8
    points = [(_integer(0, side - 1, generator), _integer(0, side - 1, generator))]
    for index, (share, length) in enumerate(zip(shares, lengths, strict=True)):
        angle = MEAN_ANGLE + ANGLE_SPREAD * (share * above - (1 - share) * below)
        turn = -angle if index % 2 == 0 else angle
        # The spread is a whole number of pixels in the published code.
        reach = min(max(typical + typical // 2 * length, 0.0), 2 * typical)
        moved = points[-1][0] + reach * math.cos(turn), points[-1][1] + reach * math.sin(turn)
        points.append((_inside(moved[0], side), _inside(moved[1], side)))
    width = _integer(_scaled(WIDTHS[0], side), _scaled(WIDTHS[1], side), generator)
    return Stroke(points=tuple(points), width=width)


def _integer(first: int, last: int, generator: torch.Generator) -> int:
    return int(torch.randint(first, last + 1, (), generator=generator, device=generator.device))


def _inside(coordinate: float, side: int) -> int:
    return int(min(max(coordinate, 0.0), side))


def _scaled(size: int, side: int) -> int:
    return max(1, round(size * side / PUBLISHED_SIDE))
