"""f1 and f2 of the model as it stands, image by image, and the inputs that training steps take."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pareto_unlearn.random_streams import Stream
from pareto_unlearn.trial.context import Material
from pareto_unlearn.trial.inputs import SETS, draw_inputs, generators_of
from pareto_unlearn.trial.targets import ImageBatch

FORGET, RETAIN = 0, 1


def forget_distances(
    material: Material, split: str, rows: Int[Tensor, " n"] | None = None
) -> Float[Tensor, " n"]:
    """Return exact f1 of the forget images of a split, or of some of them, without gradients."""
    return torch.cat(
        [
            material.forget_target.per_image(features, batch)
            for batch, features in _batches(material, ("forget", split), rows)
        ]
    )


def retain_distances(
    material: Material, split: str, rows: Int[Tensor, " n"] | None = None
) -> Float[Tensor, " n"]:
    """Return exact f2 of the retain images of a split, or of some of them, without gradients."""
    return torch.cat(
        [
            material.retain_target.per_image(features, batch)
            for batch, features in _batches(material, ("retain", split), rows)
        ]
    )


def take_batch(material: Material, key: tuple[str, str], rows: Int[Tensor, " b"]) -> ImageBatch:
    """Return some images of a set as they are measured; draws depend on the seed of the sweep alone."""
    _, split = key
    return ImageBatch(
        material.inputs[key][rows],
        rows,
        split,
        lambda: generators_of(material.seed, Stream.NOISE, rows, SETS[key]),
    )


def _batches(
    material: Material, key: tuple[str, str], rows: Int[Tensor, " n"] | None
) -> Iterator[tuple[ImageBatch, Tensor]]:
    """Yield images of a set and the model's features of them, batch by batch, and count them."""
    features = material.features()
    chosen = torch.arange(len(material.inputs[key])) if rows is None else rows
    for part in torch.split(chosen, material.model.evaluation_batch):
        with torch.no_grad():
            batch = take_batch(material, key, part)
            material.measured.add(len(part))
            yield batch, features(batch.inputs)


@dataclass(frozen=True, slots=True)
class StepInputs:
    """The mini-batches of training images, as a pure function of seed and step.

    Where the model draws parts of its inputs, every step draws them anew.
    """

    material: Material
    seed: int

    def forget(self, rows: Int[Tensor, " b"], step: int) -> ImageBatch:
        """Return some forget images."""
        return self._take("forget", FORGET, rows, step)

    def retain(self, rows: Int[Tensor, " b"], step: int) -> ImageBatch:
        """Return some retain images."""
        return self._take("retain", RETAIN, rows, step)

    def _take(self, name: str, place: int, rows: Int[Tensor, " b"], step: int) -> ImageBatch:
        model, stored, count = self.material.model, self.material.inputs[name, "train"], range(len(rows))
        if model.is_redrawn:
            draws = generators_of(self.seed, Stream.STEP_INPUTS, count, place, step)
            inputs = draw_inputs(model, stored, rows, draws)
        else:
            inputs = stored[rows]
        return ImageBatch(
            inputs, rows, "train", lambda: generators_of(self.seed, Stream.STEP_NOISE, count, step)
        )
