"""The attack on the input: visible pixels changed, too little to be seen, so that the hole shows again."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.audit.subject import Photos, Subject, errors_of
from pareto_unlearn.data import seeded_generator
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.random_streams import Stream

LARGEST = 8 / 255
"""Largest change of a pixel in [0, 1]."""
STEPS, STEP = 20, 1 / 255
"""Of projected descent along the sign of the gradient (arXiv:1706.06083)."""


def can_perturb(subject: Subject) -> bool:
    """Tell whether the model's loss has a gradient with respect to the pixels that it sees."""
    if subject.model.is_redrawn:
        return False
    pixels = subject.photos["forget", "heldout"].pixels[:1].clone().requires_grad_()
    return _prepare(subject.model, pixels).requires_grad


def errors_on_changed_input(subject: Subject) -> Float[np.ndarray, " n"]:
    """Return the error in the hole of held-out forget images after their visible part was changed."""
    photos, hole = subject.photos["forget", "heldout"], subject.hole
    changed = torch.cat([_change(subject, photos.choose(rows)) for rows in _parts(photos, subject)])
    pictures = photos.generate_from(subject.model, changed)
    return errors_of(pictures, photos.pixels, hole)


def _prepare(model: ImageToImage, pixels: Float[Tensor, "n c h w"]) -> Tensor:
    """Return inputs; a model whose inputs are not redrawn draws nothing that its loss depends on."""
    return model.prepare(
        pixels, [seeded_generator(Stream.AUDIT_NOISE, number) for number in range(len(pixels))]
    )


def _parts(photos: Photos, subject: Subject) -> tuple[Tensor, ...]:
    return torch.split(torch.arange(len(photos)), subject.model.evaluation_batch)


def _change(subject: Subject, photos: Photos) -> Float[Tensor, "n c h w"]:
    """Return images whose visible pixels lead the model to the truth in the hole."""
    truth, visible = photos.pixels, ~subject.hole
    wanted = _prepare(subject.model, truth)
    change = torch.zeros_like(truth)
    for _ in range(STEPS):
        change.requires_grad_(True)
        loss = subject.model.training_loss(_prepare(subject.model, truth + change * visible), wanted)
        (slope,) = torch.autograd.grad(loss, change)
        change = (change.detach() - STEP * slope.sign()).clamp(-LARGEST, LARGEST)
    return (truth + change * visible).clamp(0.0, 1.0)
