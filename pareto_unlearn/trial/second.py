"""Reconstructing a reconstruction (arXiv:2402.00351, appendix E.2): does what fills the hole still tell of the image?

Of the picture that a model made only what it generated is kept, and the original model, before unlearning, generates all the
rest from that. Where a picture holds nothing of a forget image, neither does what is made from it.

That is the hole, from which the original generates what lies around it. The embedded model was trained with one hole and cannot
do that (noise in the hole gives it a smaller error than the true digit), but its pictures are generated everywhere: it is given
what lies around the hole and fills the hole again.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.config import SweepConfig, TaskSection
from pareto_unlearn.metrics import compute_metrics
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.records import MetricRow
from pareto_unlearn.trial.inputs import SECOND_GENERATION_STREAM, SETS, generators_of
from pareto_unlearn.trial.material import Material, load_original

PREFIX = "second_reconstruction_"
_OPPOSITES = {
    "center": "outpaint",
    "outpaint": "center",
    "up": "down",
    "down": "up",
    "left": "right",
    "right": "left",
}


@dataclass(frozen=True, slots=True, eq=False)
class SecondReconstruction:
    """The original model, given what was generated alone."""

    original: ImageToImage
    material: Material

    def measure(
        self,
        names: tuple[str, ...],
        pictures: Float[Tensor, "n c h w"],
        truth: Float[Tensor, "n c h w"],
        *,
        image_set: str,
    ) -> list[MetricRow]:
        """Return the metrics of held-out pictures reconstructed again; errors are those of what the original generated."""
        rows = compute_metrics(
            names,
            self._reconstruct(pictures, image_set),
            truth,
            self.original.removed_pixels(),
            self.material.classifier,
            image_set=image_set,
            split="heldout",
        )
        return [replace(row, metric=PREFIX + row.metric.removesuffix("_hole")) for row in rows]

    def _reconstruct(self, pictures: Float[Tensor, "n c h w"], image_set: str) -> Float[Tensor, "n c h w"]:
        parts = torch.split(torch.arange(len(pictures)), self.original.evaluation_batch)
        place = SETS[image_set, "heldout"]
        return torch.cat(
            [
                self.original.generate(
                    pictures[rows], generators_of(self.material.seed, SECOND_GENERATION_STREAM, rows, place)
                )
                for rows in parts
            ]
        )


def load_second(config: SweepConfig, material: Material) -> SecondReconstruction | None:
    """Load the original as it reconstructs again, where the sweep asks for it."""
    if not config.evaluate.second_reconstruction:
        return None
    if config.model.family != "digits_mae":
        share = float(material.model.removed_pixels().double().mean())
        config = config.model_copy(update={"task": opposite_task(config.task, share)})
    return SecondReconstruction(load_original(config, material.device), material)


def opposite_task(task: TaskSection, share: float) -> TaskSection:
    """Return the task that removes exactly what this one leaves.

    Args:
        task: of any kind but random.
        share: of the image's area that it removes.
    """
    size = {"center": 1.0 - math.sqrt(share), "outpaint": math.sqrt(1.0 - share)}.get(task.kind, 1.0 - share)
    return task.model_copy(update={"kind": _OPPOSITES[task.kind], "size": size, "patches": None})
