"""KLOM: how far trainings of one kind are from trainings of another, image by image (arXiv:2410.23232).

With a handful of trainings on either side even equal kinds are some way apart, so the figure stands beside
what it is when the trainings change sides.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

LEAST, MOST = 3, 6
"""Trainings on either side; six of each can change sides in 924 ways."""

Errors = Mapping[str, float]
"""The error of each image, by one model."""


@dataclass(frozen=True, slots=True)
class Apart:
    """KLOM of some models from retrained ones.

    Args:
        nats: a mean over the images.
        alike: the median over all ways in which the models can change sides: models of one kind have this.
        share: of these ways with a KLOM as large or larger; at least one in their number.
        models: on the side of the unlearned ones, and of the retrained ones.
        images: that every model was asked for.
    """

    nats: float
    alike: float
    share: float
    models: tuple[int, int]
    images: int


def find_klom(models: Sequence[Errors], controls: Sequence[Errors]) -> Apart | None:
    """Return KLOM of models of one name and several seeds from retrained ones.

    None with fewer than three on either side. Each image's margin is the logarithm of its error. Its
    distributions over the models of each kind are taken for normal ones, since a handful of models fills no
    histogram.
    """
    kinds = models[:MOST], controls[:MOST]
    own, retrained = len(kinds[0]), len(kinds[1])
    if min(own, retrained) < LEAST:
        return None
    images = sorted(set.intersection(*(set(one) for one in (*kinds[0], *kinds[1]))))
    if not images:
        return None
    margins = np.log([[max(one[image], 1e-12) for image in images] for one in (*kinds[0], *kinds[1])])
    found = np.array([_divergence(margins, rows) for rows in _sides(own + retrained, own)])
    # The first way is that of the models themselves.
    share = float((found >= found[0]).mean())
    return Apart(float(found[0]), float(np.median(found)), share, (own, retrained), len(images))


def _sides(total: int, own: int) -> Iterator[Int[np.ndarray, " own"]]:
    return (np.array(rows) for rows in combinations(range(total), own))


def _divergence(margins: Float[np.ndarray, "models images"], own: Int[np.ndarray, " own"]) -> float:
    """Return the mean over images of KL(retrained || unlearned), both normal."""
    unlearned, retrained = margins[own], np.delete(margins, own, axis=0)
    wide, narrow = (np.maximum(side.var(axis=0, ddof=1), 1e-12) for side in (unlearned, retrained))
    shift = np.square(retrained.mean(axis=0) - unlearned.mean(axis=0))
    return float(np.mean(0.5 * (np.log(wide / narrow) + (narrow + shift) / wide - 1.0)))
