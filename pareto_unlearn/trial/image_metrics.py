"""The published metrics of a model of the sweep: which networks they need, and the pictures they look at."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from pareto_unlearn.catalogue.metrics import METRICS
from pareto_unlearn.config import SweepConfig
from pareto_unlearn.data import Images, ImageSet, SplitData
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.metrics import (
    WEIGHTS_FILES,
    FeatureFiles,
    FoundWeights,
    Measure,
    Pictures,
    Scoring,
    choose_measures,
    find_weights,
    needed_files,
    quantise,
    weights_folder,
)
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.trial.bank import spread_rows
from pareto_unlearn.trial.inputs import SETS, generators_of
from pareto_unlearn.trial.subset import Chosen

HELDOUT = "heldout"
PART = 256
"""Images that are in memory as floats at a time."""


def measures_of(config: SweepConfig) -> tuple[Measure, ...]:
    """Return the published metrics that a sweep measures; none under protocol builtin."""
    return choose_measures(config.evaluate.protocol, config.evaluate.metrics, config.data.dataset)


def check_weights(config: SweepConfig) -> dict[str, FoundWeights]:
    """Return the verified files that the metrics of a sweep need, by name.

    Raises:
        ConfigError: a digest is given for a file that no metric knows.
        WeightsError: a file is missing or is another one.
    """
    pins = config.evaluate.weights_sha256
    unknown = [name for name in pins if name not in WEIGHTS_FILES]
    if unknown:
        raise ConfigError(
            f"evaluate.weights_sha256: expected names among {', '.join(WEIGHTS_FILES)}, found "
            f"{', '.join(unknown)}"
        )
    return find_weights(needed_files(measures_of(config)), weights_folder(config.evaluate.weights), pins)


def check_heldout(config: SweepConfig, split: SplitData) -> None:
    """Refuse held-out sets, or images in them, that are too small for a metric.

    Raises:
        ConfigError: names the metric and the numbers.
    """
    side = min(split.forget_heldout.images.shape[2:])
    for measure in measures_of(config):
        least = METRICS[measure.metric].least_side
        if side < least:
            raise ConfigError(
                f"evaluate.metrics: {measure.metric} needs images of at least {least} pixels a side, found "
                f"{side}; leave it out"
            )
    _check_counts(config, split)


def _check_counts(config: SweepConfig, split: SplitData) -> None:
    counts = {"forget": len(split.forget_heldout), "retain": len(split.retain_heldout)}
    limit = config.evaluate.pictures
    if limit is not None:
        counts = {name: min(count, limit) for name, count in counts.items()}
    for measure in measures_of(config):
        least = METRICS[measure.metric].least_images
        if min(counts.values()) < least:
            raise ConfigError(
                f"evaluate.metrics: {measure.metric} needs {least} held-out images of each set, found "
                f"{counts['forget']} to forget and {counts['retain']} to keep; give more by "
                f"data.heldout_per_class{'' if limit is None else ' and evaluate.pictures'}, or leave it out"
            )


def open_scoring(config: SweepConfig, folder: Path, run_key: str, device: torch.device) -> Scoring | None:
    """Return the scoring by published metrics, its files verified; None if the sweep names no such metric.

    Args:
        config: the sweep.
        folder: where features are kept on this machine.
        run_key: changes whenever the images of the run could.
        device: where networks run.

    Raises:
        WeightsError: a file is missing or is another one.
    """
    measures = measures_of(config)
    if not measures:
        return None
    return Scoring(
        protocol=config.evaluate.protocol,
        measures=measures,
        weights=check_weights(config),
        files=FeatureFiles(folder, run_key),
        device=device,
    )


def heldout_pictures(
    split: SplitData,
    outputs: Callable[[str, Int[Tensor, " n"]], UInt8[Tensor, "n 3 h w"]],
    pictured: Chosen,
) -> dict[str, Pictures]:
    """Return equally many held-out images of both sets, with a model's pictures of them.

    Those of the larger set are spread evenly over it.

    Args:
        split: the images of the sweep.
        outputs: returns the pictures of some images of a set, as ``quantise`` leaves them.
        pictured: the images that pictures are made of, of sets that are not taken whole.
    """
    sets = {"forget": split.forget_heldout, "retain": split.retain_heldout}
    chosen = {name: pictured.get((name, HELDOUT), torch.arange(len(images))) for name, images in sets.items()}
    # A distance depends on the number of images, so that sets of unequal size could not be compared.
    count = min(len(rows) for rows in chosen.values())
    return {
        name: _pictures(name, images, chosen[name][spread_rows(len(chosen[name]), count)], outputs)
        for name, images in sets.items()
    }


def _pictures(
    name: str,
    images: ImageSet,
    rows: Int[Tensor, " n"],
    outputs: Callable[[str, Int[Tensor, " n"]], UInt8[Tensor, "n 3 h w"]],
) -> Pictures:
    return Pictures(
        ids=tuple(images.image_ids[row] for row in rows.tolist()),
        # Several networks look at them, and generating them is the work.
        truth=cache(lambda: torch.cat([quantise(images.images[part]) for part in torch.split(rows, PART)])),
        output=cache(lambda: outputs(name, rows)),
    )


def generate_pictures(
    model: ImageToImage, split: SplitData, seed: int, device: torch.device, name: str, rows: Int[Tensor, " n"]
) -> UInt8[Tensor, "n 3 h w"]:
    """Return held-out images of a set with their holes generated, as a file of them would hold them."""
    images = getattr(split, f"{name}_{HELDOUT}").images
    parts = torch.split(rows, model.evaluation_batch)
    return torch.cat([quantise(generate(model, images, seed, device, name, part)).cpu() for part in parts])


def generate(
    model: ImageToImage, images: Images, seed: int, device: torch.device, name: str, rows: Int[Tensor, " b"]
) -> Tensor:
    """Return a batch of held-out images with their holes generated; draws depend on the image alone."""
    draws = generators_of(seed, Stream.GENERATION, rows, SETS[name, HELDOUT])
    return model.generate(images[rows].to(device), draws)
