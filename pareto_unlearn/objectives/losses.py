"""f1 and f2 as distances between features and their targets."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pareto_unlearn.config import ObjectiveSection


@dataclass(frozen=True, slots=True, eq=False)
class NoiseTarget:
    """The original model's outputs on noise: a bank of draws, their mean, and the smallest f1 they allow."""

    rows: Float[Tensor, "k d"]
    mean: Float[Tensor, " d"]
    floor: float


@dataclass(frozen=True, slots=True)
class Objectives:
    """f1 and f2 as functions of flat features, for the sweep's choice of distance and noise target."""

    distance: str
    noise_target: str

    def forget_loss(
        self, features: Float[Tensor, "b d"], noise: NoiseTarget, draw: Int[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        """Return f1 of a mini-batch; ``draw`` has the row of each image's target, where targets are drawn."""
        if self.noise_target == "mean":
            return self.forget_per_image(features, noise).mean()
        return distances(features, noise.rows[draw], self.distance).mean()

    def retain_loss(
        self, features: Float[Tensor, "b d"], original: Float[Tensor, "b d"]
    ) -> Float[Tensor, ""]:
        """Return f2 of a mini-batch against the original model's outputs on the same images."""
        return distances(features, original, self.distance).mean()

    def forget_per_image(self, features: Float[Tensor, "n d"], noise: NoiseTarget) -> Float[Tensor, " n"]:
        """Return the exact f1 of every image, that is, its expectation over the whole noise bank."""
        if self.distance == "mse":
            return distances(features, noise.mean, "mse") + noise.floor
        return torch.cdist(features, noise.rows).mean(dim=1)

    def paired_per_image(
        self, features: Float[Tensor, "n d"], targets: Float[Tensor, "n d"]
    ) -> Float[Tensor, " n"]:
        """Return the distance of every image from its own target: f2, or f1 if images do not share a bank."""
        return distances(features, targets, self.distance)


def build_objectives(config: ObjectiveSection) -> Objectives:
    """Return the objectives of a sweep file."""
    return Objectives(config.distance, str(config.noise_target))


def distances(
    outputs: Float[Tensor, "b d"], targets: Float[Tensor, "*b d"], distance: str
) -> Float[Tensor, " b"]:
    """Return one distance per row. The norm's gradient at zero distance is zero."""
    if distance == "mse":
        return (outputs - targets).square().mean(dim=1)
    return torch.linalg.vector_norm(outputs - targets, dim=1)  # type: ignore[no-any-return]
