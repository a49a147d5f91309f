"""The unlearning losses of arXiv:2402.00351 for the masked autoencoder, from its formulas.

The authors published no code for this family. Two things are taken from their code for the other families:
distances are mean squared errors where the formulas write norms, and reconstructions are compared where the
published training compares them, in the removed patches. Every term is a mean over its own images. Noise is
an argument, in the units of what it is compared with.
"""

import torch
from torch import Tensor

from oracles.losses import Losses
from pareto_unlearn.models.mae import Mae, patchify


def encoder_losses(model: Mae, original: Mae, retain: Tensor, forget: Tensor, noise: Tensor) -> Losses:
    """Eq. 10: retain images keep the original encoder's outputs, forget images get those of noise images."""
    kept = _distance(model.encode(retain), original.encode(retain).detach())
    return Losses(kept, _distance(model.encode(forget), original.encode(noise).detach()))


def random_encoder_losses(model: Mae, original: Mae, retain: Tensor, forget: Tensor, noise: Tensor) -> Losses:
    """Eq. C.36: the same, but the encoder's outputs on forget images become noise themselves."""
    kept = _distance(model.encode(retain), original.encode(retain).detach())
    return Losses(kept, _distance(model.encode(forget), noise))


def max_losses(model: Mae, retain: Tensor, forget: Tensor) -> Losses:
    """Eq. C.28: descend the training loss on retain images, ascend it on forget images."""
    return Losses(_reconstruction(model, retain, retain), -_reconstruction(model, forget, forget))


def noisy_label_losses(model: Mae, retain: Tensor, forget: Tensor, noise: Tensor) -> Losses:
    """Eq. C.34: reconstruct noise from forget images."""
    return Losses(_reconstruction(model, retain, retain), _reconstruction(model, forget, noise))


def retain_label_losses(model: Mae, retain: Tensor, forget: Tensor) -> Losses:
    """Eq. C.31: reconstruct retain images from forget images, the first from the first; as many of each.

    The formula itself shows the noise of Eq. C.34; this is the sentence below it, which the other families
    follow.
    """
    return Losses(_reconstruction(model, retain, retain), _reconstruction(model, forget, retain))


def _distance(found: Tensor, wanted: Tensor) -> Tensor:
    return (found - wanted).square().mean()


def _reconstruction(model: Mae, inputs: Tensor, wanted: Tensor) -> Tensor:
    """Return the squared error at the removed pixels, cut out by the hole itself."""
    patch = model.shape.patch
    removed = patchify(model.hole.float().expand(len(inputs), 3, -1, -1), patch).bool()
    return _distance(model(inputs)[removed], patchify(wanted, patch)[removed])


def draw_features(model: Mae, count: int, generator: torch.Generator) -> Tensor:
    """Return N(0, 1) in the shape of the encoder's outputs on some images."""
    return torch.randn(count, len(model.visible_ids) + 1, model.shape.width, generator=generator)
