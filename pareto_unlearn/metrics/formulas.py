"""The arithmetic of image metrics, in float64, on features or logits.

Values are checked to be finite before any matrix root, since a root over NaN or infinity ends the process.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pareto_unlearn.catalogue.metrics import INCEPTION_SPLITS

NORMAL_95 = 1.96
PERMUTATION_SEED = 2020
"""The seed of torch-fidelity, so that ``shuffled_parts`` gives the scores of torch-fidelity."""
KERNEL_DEGREE = 3
_KERNEL_ROWS = 1024


def compute_psnr(mean_squared_error: float) -> float:
    """Return the peak signal-to-noise ratio in dB of [0, 1] images; infinite for identical images."""
    return -10.0 * math.log10(mean_squared_error) if mean_squared_error > 0 else math.inf


def compute_frechet(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> float:
    """Return the Fréchet distance between Gaussians fitted to two sets of features, in float64, at least 0.

    tr((S1 S2)^1/2) is computed as the trace of the symmetric root of S1^1/2 S2 S1^1/2, which is always real.

    Raises:
        ValueError: fewer than two rows, or features that are not finite (the matrix root would end the
        process).
    """
    _require_finite_rows(real, fake, "the Fréchet distance")
    mean_gap = real.double().mean(dim=0) - fake.double().mean(dim=0)
    first, second = torch.cov(real.double().T), torch.cov(fake.double().T)
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0.0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0.0).sqrt().sum()
    distance = mean_gap.square().sum() + first.trace() + second.trace() - 2.0 * cross
    return max(float(distance), 0.0)


def compute_inception_score(logits: Float[Tensor, "n c"]) -> float:
    """Return exp(mean KL(p(y|x) || p(y))) over all images as one split (Salimans et al., arXiv:1606.03498).

    Written out because torchmetrics permutes images with the process-wide random generator.
    """
    log_conditional = functional.log_softmax(logits.double(), dim=1)
    log_marginal = torch.logsumexp(log_conditional, dim=0) - math.log(len(logits))
    divergence = (log_conditional.exp() * (log_conditional - log_marginal)).sum(dim=1)
    return float(divergence.mean().exp())


def compute_kernel_distance(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> float:
    """Return KID: the unbiased squared MMD under the kernel (x.y / d + 1)^3.

    Source: Binkowski et al., arXiv:1801.01401. The value is computed over all pairs of images, without
    randomness; the usual mean over random subsets estimates the same value with more noise. The expected
    value of two equal distributions is 0, so the result may be negative.

    Raises:
        ValueError: fewer than two rows in a set, or features that are not finite.
    """
    _require_finite_rows(real, fake, "the kernel distance")
    n, m = len(real), len(fake)
    within_real = _kernel_sum(real, real) - _kernel_diagonal_sum(real)
    within_fake = _kernel_sum(fake, fake) - _kernel_diagonal_sum(fake)
    return within_real / (n * (n - 1)) + within_fake / (m * (m - 1)) - 2.0 * _kernel_sum(real, fake) / (n * m)


def _kernel_sum(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> float:
    """Return the sum of the kernel over all pairs of rows, computed in blocks of rows to bound memory."""
    width, other = first.shape[1], second.double().T
    blocks = torch.split(first.double(), _KERNEL_ROWS)
    return math.fsum(float((block @ other / width + 1.0).pow(KERNEL_DEGREE).sum()) for block in blocks)


def _kernel_diagonal_sum(rows: Float[Tensor, "n d"]) -> float:
    squares = rows.double().square().sum(dim=1) / rows.shape[1]
    return float((squares + 1.0).pow(KERNEL_DEGREE).sum())


def _require_finite_rows(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], what: str) -> None:
    if min(len(real), len(fake)) < 2 or not (torch.isfinite(real).all() and torch.isfinite(fake).all()):
        raise ValueError(f"{what} needs at least two finite feature rows in each set")


def compute_split_inception_score(parts: Sequence[Float[Tensor, "_ c"]]) -> float:
    """Return the mean of the inception scores of several parts of a set.

    Raises:
        ValueError: a part is empty, or logits are not finite.
    """
    if not parts or not all(len(part) and torch.isfinite(part).all() for part in parts):
        raise ValueError("the inception score needs finite logits, and at least one image in each part")
    return math.fsum(compute_inception_score(part) for part in parts) / len(parts)


def shuffled_parts(rows: Float[Tensor, "n c"]) -> list[Float[Tensor, "_ c"]]:
    """Return the rows shuffled and divided into parts; the permutation depends on the number of rows only."""
    # The generator of torch-fidelity; any other would give another number for the same images.
    order = np.random.RandomState(PERMUTATION_SEED).permutation(len(rows))
    bounds = [part * len(rows) // INCEPTION_SPLITS for part in range(INCEPTION_SPLITS + 1)]
    shuffled = rows[torch.from_numpy(order).to(rows.device)]
    return [shuffled[first:end] for first, end in pairwise(bounds)]


def blocked_parts(rows: Float[Tensor, "n c"]) -> list[Float[Tensor, "_ c"]]:
    """Return parts of equal length in the order of the rows; the remainder is left out.

    With rows ordered by class, whole classes fall into one part.
    """
    length = len(rows) // INCEPTION_SPLITS
    return [rows[part * length : (part + 1) * length] for part in range(INCEPTION_SPLITS)]


def paired_cosines(real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Return the cosine of every pair of rows, in float64.

    Raises:
        ValueError: features are not finite.
    """
    if not (torch.isfinite(real).all() and torch.isfinite(fake).all()):
        raise ValueError("a cosine needs finite features")
    return functional.cosine_similarity(real.double(), fake.double())


def mean_interval(values: Float[Tensor, " n"]) -> tuple[float, float | None, float | None]:
    """Return the mean and the two ends of its normal 95 % interval; the ends are None for a single value."""
    mean = float(values.mean())
    if len(values) < 2:
        return mean, None, None
    half = NORMAL_95 * float(values.std()) / math.sqrt(len(values))
    return mean, mean - half, mean + half
