"""Noise images other than the models' own N(0, I), drawn in pixels with one generator for each image."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.data.image_sets import Images

__all__ = [
    "PixelNoise",
    "clipped_noise",
    "correlated_noise",
    "fit_covariance",
    "measure_pixels",
    "uniform_noise",
]

PixelNoise = Callable[[Sequence[torch.Generator]], Float[Tensor, "b c h w"]]
"""Maps one generator per image to noise in the units of [0, 1] pixels, on the CPU.

An image depends on its own generator alone, not on the others of its batch.
"""

OVERSAMPLING, PASSES = 10, 4
"""Directions beyond the rank, and passes over the images: arXiv:0909.4061, section 4.5."""

CHUNK_VALUES = 2**26
"""Number of pixel values converted to float64 at a time."""


def uniform_noise(shape: torch.Size) -> PixelNoise:
    """Return noise with every value uniform in [0, 1]; ``shape`` is (c, h, w)."""
    return lambda generators: torch.stack([torch.rand(shape, generator=drawing) for drawing in generators])


def clipped_noise(shape: torch.Size, mean: float, std: float) -> PixelNoise:
    """Return noise with every value from N(mean, std^2), clipped to [0, 1]; ``shape`` is (c, h, w)."""
    return lambda generators: torch.stack(
        [(torch.randn(shape, generator=drawing) * std + mean).clamp(0.0, 1.0) for drawing in generators]
    )


def correlated_noise(shape: torch.Size, rows: Float[Tensor, "r1 d"]) -> PixelNoise:
    """Return noise from N(mean, Sigma), not clipped.

    Args:
        shape: (c, h, w).
        rows: mean and covariance, as ``fit_covariance`` returns them.
    """
    mean, factor = rows[0], rows[1:]
    return lambda generators: torch.stack(
        [
            (mean + torch.randn(len(factor), generator=drawing) @ factor).reshape(shape)
            for drawing in generators
        ]
    )


def measure_pixels(sets: Sequence[Images]) -> Float[Tensor, " 2"]:
    """Return mean and standard deviation of all pixel values of the sets: float32, from float64 sums."""
    count, total, squares = 0, 0.0, 0.0
    for part in _chunks(sets):
        count += part.numel()
        total += float(part.sum())
        squares += float((part**2).sum())
    mean = total / count
    return torch.tensor([mean, math.sqrt(max(squares / count - mean**2, 0.0))])


def fit_covariance(sets: Sequence[Images], rank: int, generator: torch.Generator) -> Float[Tensor, "r1 d"]:
    """Return the mean and a low-rank covariance of images, by randomised subspace iteration.

    The covariance is nearly the best one of its rank, and exact where ``rank`` is at least the number of
    images less one. The signs of the directions are fixed, so that every machine returns the same rows.

    Args:
        sets: images of one size, at least two in all sets together.
        rank: largest number of directions kept.
        generator: draws the start of the iteration.

    Returns:
        The mean in row 0; then one row F_i for each direction, its principal axis times the standard
        deviation along it, so that Sigma = F^T F. float32.
    """
    count = sum(map(len, sets))
    if count < 2:
        raise ValueError(f"expected two images at least, found {count}")
    mean = torch.stack([part.sum(dim=0) for part in _chunks(sets)]).sum(dim=0) / count
    width = min(rank + OVERSAMPLING, count, len(mean))
    start = torch.randn(len(mean), width, generator=generator, dtype=torch.float64)
    basis, _ = torch.linalg.qr(start)
    for _ in range(PASSES - 1):
        image = sum((part.T @ (part @ basis) for part in _centred(sets, mean)), torch.zeros_like(basis))
        basis, _ = torch.linalg.qr(image)
    products = torch.cat([part @ basis for part in _centred(sets, mean)])
    _, deviations, axes = torch.linalg.svd(products, full_matrices=False)
    rows = (deviations / math.sqrt(count - 1))[:rank, None] * (axes[:rank] @ basis.T)
    signs = torch.where(rows @ start[:, 0] < 0, -1.0, 1.0)
    return torch.cat([mean[None], signs[:, None] * rows]).float()


def _centred(sets: Sequence[Images], mean: Float[Tensor, " d"]) -> Iterator[Float[Tensor, "m d"]]:
    return (part - mean for part in _chunks(sets))


def _chunks(sets: Sequence[Images]) -> Iterator[Float[Tensor, "m d"]]:
    """Yield the images flattened, in float64, ``CHUNK_VALUES`` values at a time."""
    for images in sets:
        size = max(1, CHUNK_VALUES // math.prod(images.shape[1:]))
        for start in range(0, len(images), size):
            yield images[start : start + size].flatten(1).double()
