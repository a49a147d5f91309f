"""Finds, before anything is solved, what would make a retained quality a division by zero."""

import torch
from torch import Tensor

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.data import ImageSet, SplitData
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.objectives import feature_function
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.trial.bank import spread_rows
from pareto_unlearn.trial.inputs import SETS, generators_of

PROBED = (2, 8)
"""Images of each set that are looked at: few, since a large network takes seconds for each, and more only
where those few have the same output."""


def check_outputs(config: SweepConfig, model: ImageToImage, split: SplitData) -> None:
    """Refuse sets of which the original's outputs are no numbers, or all the same.

    Raises:
        ConfigError: names the set, and what to do.
    """
    for key, where in _SETS.items():
        images: ImageSet = getattr(split, "_".join(key))
        outputs = _outputs_on(config, model, images, key, PROBED[0])
        if not bool(outputs.isfinite().all()):
            raise ConfigError(
                f"data: expected finite outputs of the original on the {where}, found NaN or infinity: the "
                "training that left these weights may have diverged"
            )
        if key[0] == "retain" and not _differ(outputs):
            _require_difference(_outputs_on(config, model, images, key, PROBED[1]), images, where)


_SETS = {
    ("forget", "train"): "training images to forget",
    ("retain", "train"): "training images to keep",
    ("retain", "heldout"): "held-out images to keep",
}


def _outputs_on(
    config: SweepConfig, model: ImageToImage, images: ImageSet, key: tuple[str, str], count: int
) -> Tensor:
    rows = spread_rows(len(images), count)
    generators = generators_of(config.seed, Stream.INPUTS, rows, SETS[key])
    with torch.no_grad():
        inputs = model.prepare(images.images[rows], generators)
        return feature_function(model, config.objective.space)(inputs)


def _differ(outputs: Tensor) -> bool:
    return len(outputs) > 1 and bool((outputs != outputs[:1]).any())


def _require_difference(outputs: Tensor, images: ImageSet, where: str) -> None:
    """Retained quality is 1 - f2 / the variance of these outputs, so there must be one."""
    if _differ(outputs):
        return
    found = "one image" if len(images) == 1 else f"the same output for all {len(outputs)} that were looked at"
    raise ConfigError(
        f"data: expected at least two different {where}, found {found}: retained quality is measured in "
        "units of the variance of the original's outputs on them; give more images (data.heldout_per_class, "
        "data.train_per_class, data.retain_classes)"
    )
