"""How near a model's outputs are to those of models that never saw the forget images."""

from collections.abc import Sequence

import numpy as np

from pareto_unlearn.audit.statistics import Figure
from pareto_unlearn.audit.subject import Subject
from pareto_unlearn.models import ImageToImage


def distance_to_controls(
    subject: Subject, original: ImageToImage, controls: Sequence[ImageToImage]
) -> Figure:
    """Return rho = d(model, control) / d(original, control), a mean over the controls.

    d is the mean squared difference of two models' pictures in the hole, on held-out forget images. Above 1
    the model is further from one that never saw the images than before it unlearned anything.
    """
    ratios = [
        _difference(subject, subject.model, control) / _difference(subject, original, control)
        for control in controls
    ]
    photos = subject.photos["forget", "heldout"]
    return Figure(float(np.mean(ratios)), None, None, len(photos))


def _difference(subject: Subject, one: ImageToImage, other: ImageToImage) -> float:
    photos, hole = subject.photos["forget", "heldout"], subject.hole
    gap = (photos.pictures(one) - photos.pictures(other))[:, :, hole]
    return float(gap.double().square().mean())
