"""The images that finished models are measured on where a sweep caps their number."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.data import SplitData, seeded_generator
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.trial.inputs import SETS

Chosen = Mapping[tuple[str, str], Int[Tensor, " n"]]
"""Rows by (set, split); a set that is not in it is measured whole."""


def choose_evaluated(config: SweepConfig, split: SplitData) -> Chosen:
    """Return the images on which f1 and f2 of finished models are measured."""
    return _choose(config.evaluate.images, split, config.seed, ("train", "heldout"))


def choose_pictured(config: SweepConfig, split: SplitData) -> Chosen:
    """Return the held-out images that finished models make pictures of for the metrics."""
    return _choose(config.evaluate.pictures, split, config.seed, ("heldout",))


def _choose(limit: int | None, split: SplitData, seed: int, parts: tuple[str, ...]) -> Chosen:
    return {
        (name, part): draw_evenly(
            images.class_ids, limit, seeded_generator(seed, Stream.EVALUATED_IMAGES, SETS[name, part])
        )
        for name, part, images in split.items()
        if part in parts and limit is not None and limit < len(images)
    }


def draw_evenly(class_ids: Int[Tensor, " n"], count: int, generator: torch.Generator) -> Int[Tensor, " m"]:
    """Return ``count`` rows in rising order: as many of each class, or one more, as far as it has them."""
    order = torch.randperm(len(class_ids), generator=generator)
    shuffled = class_ids.cpu()[order]
    grouped = shuffled.argsort(stable=True)
    sizes = torch.bincount(shuffled)
    starts = (sizes.cumsum(0) - sizes)[shuffled[grouped]]
    turn = torch.empty_like(order)
    turn[grouped] = torch.arange(len(order)) - starts
    return order[turn.argsort(stable=True)[:count]].sort().values


def standard_error(values: Float[Tensor, " n"], total: int) -> float:
    """Return the standard error of the mean of ``values`` as that of all ``total`` images of their set.

    That of a plain draw without return. Drawn evenly over classes, the true one is smaller, if anything.
    """
    count = len(values)
    if count < 2 or count >= total:
        return 0.0 if count >= total else float("nan")
    return float(values.double().std()) * math.sqrt((1.0 - count / total) / count)
