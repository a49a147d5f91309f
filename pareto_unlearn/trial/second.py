"""Reconstructing a reconstruction (arXiv:2402.00351, appendix E.2): does the filled hole still show it?

Of the picture that a model made only what it generated is kept, and the original model, before unlearning,
generates all the rest from that. Where a picture holds nothing of a forget image, neither does what is made
from it.

That is the hole, from which the original generates what lies around it. The embedded model was trained with
one hole and cannot do that (noise in the hole gives it a smaller error than the true digit), but its pictures
are generated everywhere: it is given what lies around the hole and fills the hole again.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pareto_unlearn.catalogue.metrics import second_name
from pareto_unlearn.config import SweepConfig, TaskSection
from pareto_unlearn.metrics import PictureScores
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.records import MetricRow
from pareto_unlearn.trial.context import Material
from pareto_unlearn.trial.inputs import SETS, generators_of
from pareto_unlearn.trial.loading import load_original

_OPPOSITES = {
    "center": "outpaint",
    "outpaint": "center",
    "up": "down",
    "down": "up",
    "left": "right",
    "right": "left",
}


class SecondScores:
    """The metrics of a set's held-out pictures reconstructed again; errors are those of the generated part.

    Args:
        original: the original model, as it reconstructs again.
        material: of the trial.
        names: of the metrics.
        image_set: forget or retain.
    """

    def __init__(
        self, original: ImageToImage, material: Material, names: tuple[str, ...], image_set: str
    ) -> None:
        self._original, self._seed, self._set = original, material.seed, image_set
        self._scores = PictureScores(names, original.removed_pixels(), material.classifier)

    def add(
        self, pictures: Float[Tensor, "b c h w"], truth: Float[Tensor, "b c h w"], rows: Int[Tensor, " b"]
    ) -> None:
        """Reconstruct pictures again and look at them; ``rows`` are their numbers in the set."""
        self._scores.add(reconstruct_again(self._original, pictures, self._seed, self._set, rows), truth)

    def rows(self) -> list[MetricRow]:
        """Return one row per metric."""
        found = self._scores.rows(image_set=self._set, split="heldout")
        return [replace(row, metric=second_name(row.metric)) for row in found]


def reconstruct_again(
    original: ImageToImage,
    pictures: Float[Tensor, "b c h w"],
    seed: int,
    image_set: str,
    rows: Int[Tensor, " b"],
) -> Float[Tensor, "b c h w"]:
    """Return the original's reconstructions of held-out pictures; draws depend on an image's number alone."""
    place = SETS[image_set, "heldout"]
    return torch.cat(
        [
            original.generate(
                pictures[part], generators_of(seed, Stream.SECOND_GENERATION, rows[part], place)
            )
            for part in torch.split(torch.arange(len(rows)), original.evaluation_batch)
        ]
    )


def load_second(config: SweepConfig, material: Material) -> ImageToImage | None:
    """Load the original as it reconstructs again; None unless the sweep file asks for it."""
    if not config.evaluate.second_reconstruction:
        return None
    if not config.model.row.generates_whole:
        share = float(material.model.removed_pixels().double().mean())
        config = config.model_copy(update={"task": opposite_task(config.task, share)})
    return load_original(config, material.device)


def opposite_task(task: TaskSection, share: float) -> TaskSection:
    """Return the task that removes exactly what this one leaves.

    Args:
        task: of any kind but random.
        share: of the image's area that it removes.
    """
    size = {"center": 1.0 - math.sqrt(share), "outpaint": math.sqrt(1.0 - share)}.get(task.kind, 1.0 - share)
    return task.model_copy(update={"kind": _OPPOSITES[task.kind], "size": size, "patches": None})
