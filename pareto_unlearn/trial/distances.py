"""f1 and f2 of the model as it stands: what the original or a reference says is looked up, or computed beside it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.objectives import Features, NoiseTarget, feature_function
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.trial.inputs import generators_of, make_noise
from pareto_unlearn.trial.material import Material

FORGET, RETAIN = 0, 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """Distances between features of the model and their targets.

    ``original`` and ``reference`` give these models' features of inputs; None where all their answers are stored, and where there is
    no reference.
    """

    material: Material
    original: Features | None
    reference: Features | None = None

    def forget_per_image(
        self, features: Float[Tensor, "b d"], asked: Tensor | None, rows: Int[Tensor, " b"], split: str
    ) -> Float[Tensor, " b"]:
        """Return f1 of every image, exactly.

        ``asked`` are the inputs whose answers are the images' own targets; None where these are stored by their numbers ``rows``
        in the split, or all images share the noise bank.
        """
        objectives, stored = self.material.objectives, self.material.targets.reference(split)
        if stored is not None:
            return objectives.paired_per_image(features, stored[rows.cpu()].to(features.device))
        if asked is None:
            return objectives.forget_per_image(features, self._bank())
        answers = self.original if self.reference is None else self.reference
        return objectives.paired_per_image(features, _answer(answers, asked))

    def forget_loss(
        self,
        features: Float[Tensor, "b d"],
        asked: Tensor | None,
        rows: Int[Tensor, " b"],
        draw: Int[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        """Return f1 of a mini-batch of training images; ``draw`` picks targets of the bank where they are drawn."""
        if self.material.targets.noise is not None:
            return self.material.objectives.forget_loss(features, self._bank(), draw)
        return self.forget_per_image(features, asked, rows, "train").mean()

    def retain_per_image(
        self, features: Float[Tensor, "b d"], inputs: Tensor, rows: Int[Tensor, " b"], split: str
    ) -> Float[Tensor, " b"]:
        """Return f2 of every image; ``rows`` are their numbers in the split."""
        targets = self.material.targets
        stored = targets.retain_train if split == "train" else targets.retain_heldout
        wanted = _answer(self.original, inputs) if stored is None else stored[rows.cpu()].to(features.device)
        return self.material.objectives.paired_per_image(features, wanted)

    def _bank(self) -> NoiseTarget:
        if self.material.targets.noise is None:
            raise ValueError(
                "expected inputs of the images' own targets, since there is no noise bank; found none"
            )
        return self.material.targets.noise


def compare(config: SweepConfig, material: Material) -> Comparison:
    """Return the comparison that measures: all in float32."""
    return Comparison(
        material, *(_features_of(one, config) for one in (material.original, material.reference))
    )


def _features_of(model: ImageToImage | None, config: SweepConfig) -> Features | None:
    return None if model is None else feature_function(model, config.objective.space)


def _answer(model: Features | None, inputs: Tensor) -> Float[Tensor, "b d"]:
    if model is None:
        raise ValueError("expected stored targets, or the original model beside this one; found neither")
    with torch.no_grad():
        return model(inputs)


def forget_distances(
    config: SweepConfig, material: Material, split: str, rows: Int[Tensor, " n"] | None = None
) -> Float[Tensor, " n"]:
    """Return exact f1 of the forget images of a split, or of some of them, without gradients."""
    comparison, asked = compare(config, material), material.asked(split)
    return torch.cat(
        [
            comparison.forget_per_image(features, None if asked is None else asked[part], part, split)
            for part, _, features in _batches(config, material, ("forget", split), rows)
        ]
    )


def retain_distances(
    config: SweepConfig, material: Material, split: str, rows: Int[Tensor, " n"] | None = None
) -> Float[Tensor, " n"]:
    """Return exact f2 of the retain images of a split, or of some of them, without gradients."""
    comparison = compare(config, material)
    return torch.cat(
        [
            comparison.retain_per_image(features, inputs, part, split)
            for part, inputs, features in _batches(config, material, ("retain", split), rows)
        ]
    )


def _batches(
    config: SweepConfig, material: Material, key: tuple[str, str], rows: Int[Tensor, " n"] | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield numbers, inputs and the model's features, batch by batch."""
    inputs, features = material.inputs[key], feature_function(material.model, config.objective.space)
    chosen = torch.arange(len(inputs)) if rows is None else rows
    for part in torch.split(chosen, material.model.evaluation_batch):
        with torch.no_grad():
            taken = inputs[part]
            yield part, taken, features(taken)


@dataclass(frozen=True, slots=True)
class StepInputs:
    """The inputs of mini-batches, drawn anew at every step where the model draws; a pure function of seed and step."""

    material: Material
    seed: int

    def forget(self, rows: Int[Tensor, " b"], step: int) -> tuple[Tensor, Tensor | None]:
        """Return the inputs of some forget images, and those whose answers are their own targets where they have them."""
        model, inputs = self.material.model, self.forget_alone(rows, step)
        if self.material.reference is not None:
            return inputs, inputs
        if not model.is_redrawn:
            return inputs, None
        generators = generators_of(self.seed, Stream.STEP_NOISE, range(len(rows)), step)
        return inputs, make_noise(model, inputs, generators, self.material.sampler)

    def forget_alone(self, rows: Int[Tensor, " b"], step: int) -> Tensor:
        """Return the inputs of some forget images, for losses that need no targets."""
        return self._drawn("forget", FORGET, rows, step)

    def retain(self, rows: Int[Tensor, " b"], step: int) -> Tensor:
        """Return the inputs of some retain images."""
        return self._drawn("retain", RETAIN, rows, step)

    def _drawn(self, name: str, place: int, rows: Int[Tensor, " b"], step: int) -> Tensor:
        model, inputs = self.material.model, self.material.inputs[name, "train"][rows]
        if not model.is_redrawn:
            return inputs
        return model.redraw(
            inputs, generators_of(self.seed, Stream.STEP_INPUTS, range(len(rows)), place, step)
        )
