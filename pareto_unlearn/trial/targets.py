"""What the model's outputs are compared with: f1 and f2 of a batch of images, whatever gives their targets.

Forget images have one of three kinds of target: a bank of outputs that all of them share (``SharedNoise``; a
bank of one is the mean of outputs), the original's output on the image's own noise (``PairedNoise``), or
features of their own (``ModelTarget``): those of a model that never saw them, or made from images
(``own_targets``). Retain images have the original's outputs (``ModelTarget`` again). The outputs of a fixed
model are looked up where they are stored, and else computed beside the trained model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pareto_unlearn.data import PixelNoise
from pareto_unlearn.device_copies import upload
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.objectives import Features, NoiseTarget, Objectives
from pareto_unlearn.trial.inputs import make_noise

Wrap = Callable[[Features], Features]
"""From the function that runs a model to one that runs it otherwise, such as in another precision."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageBatch:
    """Some images of one set, as the trained model is given them.

    ``rows`` are their numbers in the split. ``draw_generators`` returns a generator for every image, from
    which its own noise is drawn where it has some.
    """

    inputs: Tensor
    rows: Int[Tensor, " b"]
    split: str
    draw_generators: Callable[[], list[torch.Generator]]


class Answers(Protocol):
    """The features of a fixed model for images of a set."""

    def of(self, batch: ImageBatch) -> Float[Tensor, "b d"]:
        """Return the features of a batch, without gradients, on the device of its inputs."""
        ...

    def run_by(self, wrap: Wrap) -> "Answers":
        """Return the same answers with the model, if one is run, run as ``wrap`` makes it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class StoredAnswers:
    """Features that were computed once a run, by split."""

    rows: Mapping[str, Float[Tensor, "n d"]]

    def of(self, batch: ImageBatch) -> Float[Tensor, "b d"]:
        """Return the stored features of a batch."""
        return upload(self.rows[batch.split][batch.rows.cpu()], batch.inputs.device)

    def run_by(self, wrap: Wrap) -> "StoredAnswers":  # noqa: ARG002 - no model is run
        """Return these answers."""
        return self


@dataclass(frozen=True, slots=True, eq=False)
class ComputedAnswers:
    """Features of a frozen model that runs beside the trained one; ``features`` is how it is run."""

    model: ImageToImage
    features: Features

    def of(self, batch: ImageBatch) -> Float[Tensor, "b d"]:
        """Return the features of the batch's own inputs."""
        return self.on(batch.inputs)

    def on(self, inputs: Tensor) -> Float[Tensor, "b d"]:
        """Return the features of any inputs, without gradients."""
        with torch.no_grad():
            return self.features(inputs)

    def run_by(self, wrap: Wrap) -> "ComputedAnswers":
        """Return the answers of the same model run as ``wrap`` makes it."""
        return replace(self, features=wrap(self.features))


class ForgetTarget(Protocol):
    """What forget images should become, as the distance f1 from it."""

    @property
    def bank_size(self) -> int:
        """The number of shared targets that a step draws from; 1 if every image has its own target."""
        ...

    def per_image(self, features: Float[Tensor, "b d"], batch: ImageBatch) -> Float[Tensor, " b"]:
        """Return exact f1 of every image, from the trained model's features of the batch."""
        ...

    def step_loss(
        self, features: Float[Tensor, "b d"], batch: ImageBatch, drawn: Int[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        """Return f1 of a mini-batch; ``drawn`` picks a shared target for each image, if targets are drawn."""
        ...

    def run_by(self, wrap: Wrap) -> "ForgetTarget":
        """Return the same target with the model that gives it, if one is run, run as ``wrap`` makes it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class SharedNoise:
    """Outputs that all forget images share: the original's on a bank of noise images, or a single mean."""

    objectives: Objectives
    bank: NoiseTarget

    @property
    def bank_size(self) -> int:
        """The number of outputs in the bank."""
        return len(self.bank.rows)

    def per_image(
        self,
        features: Float[Tensor, "b d"],
        batch: ImageBatch,  # noqa: ARG002 - all images have the same target
    ) -> Float[Tensor, " b"]:
        """Return f1 of every image: its expectation over the bank."""
        return self.objectives.forget_per_image(features, self.bank)

    def step_loss(
        self,
        features: Float[Tensor, "b d"],
        batch: ImageBatch,  # noqa: ARG002 - all images have the same target
        drawn: Int[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        """Return f1 of a mini-batch, against the bank's mean or the drawn rows of it."""
        return self.objectives.forget_loss(features, self.bank, upload(drawn, features.device))

    def run_by(self, wrap: Wrap) -> "SharedNoise":  # noqa: ARG002 - no model is run
        """Return this target."""
        return self


@dataclass(frozen=True, slots=True, eq=False)
class PairedNoise:
    """The original's output on the image's own input with noise in place of content.

    ``sampler`` draws the noise images; None leaves that to the model.
    """

    objectives: Objectives
    original: ComputedAnswers
    sampler: PixelNoise | None
    bank_size: int = 1

    def per_image(self, features: Float[Tensor, "b d"], batch: ImageBatch) -> Float[Tensor, " b"]:
        """Return the distance of every image from the output on its own noise."""
        noise = make_noise(self.original.model, batch.inputs, batch.draw_generators(), self.sampler)
        return self.objectives.paired_per_image(features, self.original.on(noise))

    def step_loss(
        self,
        features: Float[Tensor, "b d"],
        batch: ImageBatch,
        drawn: Int[Tensor, " b"],  # noqa: ARG002 - nothing is shared
    ) -> Float[Tensor, ""]:
        """Return the mean distance from the outputs on noise drawn anew for this step."""
        return self.per_image(features, batch).mean()

    def run_by(self, wrap: Wrap) -> "PairedNoise":
        """Return the same target with the original run as ``wrap`` makes it."""
        return replace(self, original=self.original.run_by(wrap))


@dataclass(frozen=True, slots=True, eq=False)
class ModelTarget:
    """Fixed features for every image: the original's for f2; for f1 a reference's, or made from images."""

    objectives: Objectives
    answers: Answers
    bank_size: int = 1

    def per_image(self, features: Float[Tensor, "b d"], batch: ImageBatch) -> Float[Tensor, " b"]:
        """Return the distance of every image from its own fixed features: f1 or f2."""
        return self.objectives.paired_per_image(features, self.answers.of(batch))

    def step_loss(
        self,
        features: Float[Tensor, "b d"],
        batch: ImageBatch,
        drawn: Int[Tensor, " b"],  # noqa: ARG002 - nothing is shared
    ) -> Float[Tensor, ""]:
        """Return the mean distance of a mini-batch."""
        return self.per_image(features, batch).mean()

    def run_by(self, wrap: Wrap) -> "ModelTarget":
        """Return the same target with the fixed model, if it is run, run as ``wrap`` makes it."""
        return replace(self, answers=self.answers.run_by(wrap))
