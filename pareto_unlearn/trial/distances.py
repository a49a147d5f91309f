"""f1 and f2 of the model as it stands, image by image, and the inputs that training steps take."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pareto_unlearn.device_copies import take_rows
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.trial.context import Material
from pareto_unlearn.trial.inputs import SETS, draw_inputs, generators_of
from pareto_unlearn.trial.targets import ImageBatch

FORGET, RETAIN = 0, 1
PerImage = Callable[[Tensor, ImageBatch], Tensor]
"""From the model's features of a batch to the distance of each of its images."""


def forget_distances(
    material: Material, split: str, rows: Int[Tensor, " n"] | None = None
) -> Float[Tensor, " n"]:
    """Return exact f1 of the forget images of a split, or of some of them, without gradients."""
    return _distances(material, ("forget", split), rows, material.forget_target.per_image)


def retain_distances(
    material: Material, split: str, rows: Int[Tensor, " n"] | None = None
) -> Float[Tensor, " n"]:
    """Return exact f2 of the retain images of a split, or of some of them, without gradients."""
    return _distances(material, ("retain", split), rows, material.retain_target.per_image)


def take_batch(material: Material, key: tuple[str, str], rows: Int[Tensor, " b"]) -> ImageBatch:
    """Return some images of a set as they are measured; draws depend on the seed of the sweep alone."""
    _, split = key
    return ImageBatch(
        material.inputs[key][rows],
        rows,
        split,
        lambda: generators_of(material.seed, Stream.NOISE, rows, SETS[key]),
    )


def _distances(
    material: Material, key: tuple[str, str], rows: Int[Tensor, " n"] | None, measure: PerImage
) -> Float[Tensor, " n"]:
    """Return the distances of images of a set, and count them.

    Ranks take batches by turns, the same batches that a single process measures, so the bits are the same.
    """
    features, ranks = material.features(), material.ranks
    chosen = torch.arange(len(material.inputs[key])) if rows is None else rows
    parts, found = torch.split(chosen, material.model.evaluation_batch), []
    material.measured.add(len(chosen))
    with torch.no_grad():
        for part in ranks.share_out(parts):
            batch = take_batch(material, key, part)
            found.append(measure(features(batch.inputs), batch))
    return ranks.gather(found, parts, material.device)


@dataclass(frozen=True, slots=True)
class StepInputs:
    """The mini-batches of training images, as a pure function of seed and step.

    Where the model draws parts of its inputs, every step draws them anew. Of several ranks each gets its part
    of the rows that it gives; what is drawn depends on an image's place among all of them.
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
        own = self.material.ranks.part(len(rows))
        places, rows = range(len(rows))[own], rows[own]
        model, stored = self.material.model, self.material.inputs[name, "train"]
        if model.is_redrawn:
            draws = generators_of(self.seed, Stream.STEP_INPUTS, places, place, step)
            inputs = draw_inputs(model, stored, rows, draws)
        else:
            inputs = take_rows(stored, rows) if isinstance(stored, Tensor) else stored[rows]
        return ImageBatch(
            inputs, rows, "train", lambda: generators_of(self.seed, Stream.STEP_NOISE, places, step)
        )
