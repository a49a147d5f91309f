"""Generated images for trying things out: ten classes of coloured shapes on a gray slope.

A class decides the form and the hue; place, size, brightness and background vary. Every machine draws the
same images, because only sums, products and roots of 64-bit numbers and a rounding to 8 bits are used, which
IEEE 754 defines to the bit.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.data.image_sets import Digests, Images
from pareto_unlearn.data.order import seeded_generator
from pareto_unlearn.data.sources import Members, hold_out
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.records import PixelFormat

IMAGES_PER_CLASS = 32

_NOISE = 0.02
_EDGE = 0.2
_LUMINANCE = (0.299, 0.587, 0.114)

Plane = Float[Tensor, "h w"]

# Each form returns how far inside it a point lies, in units of its size; x and y run from -1 to 1 over it.
_FORMS: tuple[Callable[[Plane, Plane], Plane], ...] = (
    lambda x, y: 1.0 - (x * x + y * y).sqrt(),  # disc
    lambda x, y: 0.9 - torch.maximum(x.abs(), y.abs()),  # square
    lambda x, y: 1.0 - (x.abs() + y.abs()),  # diamond
    lambda x, y: 0.25 - ((x * x + y * y).sqrt() - 0.7).abs(),  # ring
    lambda x, y: torch.minimum(
        0.3 - torch.minimum(x.abs(), y.abs()), 1.0 - torch.maximum(x.abs(), y.abs())
    ),  # plus
    lambda x, y: torch.minimum(0.35 - y.abs(), 1.0 - x.abs()),  # lying bar
    lambda x, y: torch.minimum(0.35 - x.abs(), 1.0 - y.abs()),  # standing bar
    lambda x, y: torch.minimum(0.35 - (x - y).abs(), 1.0 - torch.maximum(x.abs(), y.abs())),  # diagonal
    lambda x, y: torch.minimum(0.5 + 0.5 * y - x.abs(), 0.8 - y),  # triangle
    lambda x, y: 0.45 - ((x.abs() - 0.5).square() + y * y).sqrt(),  # two dots
)  # fmt: skip


class GeneratedSource:
    """Ten classes of 32 images in any pixel format; an image is drawn when it is opened."""

    def __init__(self, pixels: PixelFormat) -> None:
        self._pixels = pixels
        self.class_names = tuple(f"class-{index}" for index in range(len(_FORMS)))

    def list_images(self, classes: Sequence[str]) -> Mapping[str, Members]:
        """Return the image ids of each of these classes."""
        return {
            name: hold_out([f"{name}/{number:02d}" for number in range(IMAGES_PER_CLASS)]) for name in classes
        }

    def open(self, image_ids: Sequence[str]) -> tuple[Images, Digests]:
        """Return newly drawn images, and the digests of their float32 pixels."""
        images = torch.stack([self._draw(image_id) for image_id in image_ids])
        return images, tuple(hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images)

    def identify(self, image_ids: Sequence[str]) -> Sequence[str]:
        """Return the digests of images, which are drawn to compute them."""
        return tuple(self.open(image_ids)[1])

    def _draw(self, image_id: str) -> Float[Tensor, "c h w"]:
        name, _, number = image_id.partition("/")
        return draw_image(self.class_names.index(name), int(number), self._pixels)


def draw_image(class_id: int, number: int, pixels: PixelFormat) -> Float[Tensor, "c h w"]:
    """Return one drawn image; its place, size and brightness are the same in every format."""
    generator = seeded_generator(Stream.GENERATED_IMAGES, class_id, number)
    drawn = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
    centre_x, centre_y = (0.4 + 0.2 * value for value in drawn[:2])
    size, brightness, slope, base = 0.25 + 0.1 * drawn[2], 0.7 + 0.3 * drawn[3], drawn[4] - 0.5, drawn[5]
    places = (torch.arange(pixels.side, dtype=torch.float64) + 0.5) / pixels.side
    y, x = torch.meshgrid(places, places, indexing="ij")
    inside = _FORMS[class_id]((x - centre_x) / size, (y - centre_y) / size)
    cover = (inside / _EDGE + 0.5).clamp(0.0, 1.0)
    background = 0.3 + 0.2 * base + 0.2 * slope * (x + y)
    noise = torch.rand(pixels.side, pixels.side, generator=generator, dtype=torch.float64) * 2.0 - 1.0
    colours = [brightness * value for value in _hue(class_id / len(_FORMS))]
    if pixels.channels == 1:
        colours = [sum(weight * value for weight, value in zip(_LUMINANCE, colours, strict=True))]
    planes = [background + (colour - background) * cover + _NOISE * noise for colour in colours]
    return (torch.stack(planes).clamp(0.0, 1.0) * 255.0).round().to(torch.float32) / 255.0


def _hue(share: float) -> tuple[float, float, float]:
    """Return the RGB of a pure hue; ``share`` is its position on the colour circle, from 0 to 1."""
    red, green, blue = (
        min(max(abs((6.0 * share + shift) % 6.0 - 3.0) - 1.0, 0.0), 1.0) for shift in (0.0, 4.0, 2.0)
    )
    return red, green, blue
