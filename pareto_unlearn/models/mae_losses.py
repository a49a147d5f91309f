"""What the masked autoencoder is trained on to forget: the encoder loss and the baselines of arXiv:2402.00351.

No code of the authors exists for this family; these are the formulas of the paper, with two departures of its code
for the other families: distances are mean squared errors where the formulas write norms, and reconstructions are
compared where the published training compares them, in the removed patches. Noise is an argument, in the units of
what it is compared with. Every function returns both terms; the weight between them is the caller's.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pareto_unlearn.models.mae import Mae

__all__ = [
    "Losses",
    "encoder_losses",
    "max_losses",
    "noisy_label_losses",
    "random_encoder_losses",
    "retain_label_losses",
]

Images = Float[Tensor, "_ 3 h w"]
Latents = Float[Tensor, "_ s d"]


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """The two terms of an unlearning loss, each a mean over its own images, both to be minimised."""

    retain: Float[Tensor, ""]
    forget: Float[Tensor, ""]

    def total(self, alpha: float) -> Float[Tensor, ""]:
        """Return retain + alpha * forget."""
        return self.retain + alpha * self.forget


def encoder_losses(model: Mae, original: Mae, retain: Images, forget: Images, noise: Images) -> Losses:
    """Eq. 10: retain images keep the original encoder's outputs, forget images get its outputs on noise images."""
    with torch.no_grad():
        wanted = original.encode(noise)
    return Losses(_keep(model, original, retain), functional.mse_loss(model.encode(forget), wanted))


def random_encoder_losses(
    model: Mae, original: Mae, retain: Images, forget: Images, noise: Latents
) -> Losses:
    """Eq. C.36: the same, but the encoder's outputs on forget images become noise themselves."""
    return Losses(_keep(model, original, retain), functional.mse_loss(model.encode(forget), noise))


def max_losses(model: Mae, retain: Images, forget: Images) -> Losses:
    """Eq. C.28: descend the training loss on retain images, ascend it on forget images."""
    return Losses(model.training_loss(retain), -model.training_loss(forget))


def noisy_label_losses(model: Mae, retain: Images, forget: Images, noise: Images) -> Losses:
    """Eq. C.34: reconstruct noise from forget images."""
    return Losses(model.training_loss(retain), _instead(model, forget, noise))


def retain_label_losses(model: Mae, retain: Images, forget: Images) -> Losses:
    """Eq. C.31: reconstruct retain images, repeated in turn, from forget images.

    The formula itself shows the noise of Eq. C.34; this is the sentence below it, which the other families follow.
    """
    wanted = retain[torch.arange(len(forget), device=retain.device) % len(retain)]
    return Losses(model.training_loss(retain), _instead(model, forget, wanted))


def _keep(model: Mae, original: Mae, retain: Images) -> Float[Tensor, ""]:
    with torch.no_grad():
        wanted = original.encode(retain)
    return functional.mse_loss(model.encode(retain), wanted)


def _instead(model: Mae, inputs: Images, wanted: Images) -> Float[Tensor, ""]:
    return model.reconstruction_loss(inputs, wanted, model.fixed_masking(len(inputs)))
