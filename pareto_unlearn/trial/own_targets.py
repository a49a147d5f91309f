"""Targets that every forget image has for itself: from a reference model, its own pixels, or a retain image.

A target is a function of its image and the seed of the sweep; held-out images get theirs by the same rule.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pareto_unlearn.data import ImageSet, SplitData, fill_hole, nearest_rows
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.objectives import Features, feature_function
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.trial.inputs import SETS, LazyRows, Rows, generators_of


def reference_targets(reference: Features, inputs: Mapping[tuple[str, str], Rows]) -> dict[str, LazyRows]:
    """Return, by split, a reference model's features of every forget image.

    Args:
        reference: the features of that model.
        inputs: model inputs keyed by (set, split).
    """
    return {
        part: _features_of(reference, images, torch.arange(len(images)))
        for (name, part), images in inputs.items()
        if name == "forget"
    }


def background_targets(model: ImageToImage, split: SplitData, seed: int) -> dict[str, LazyRows]:
    """Return, by split, what a perfect model would output if its background were all a forget image shows.

    Args:
        model: the original; its outputs are the targets where its training compares nothing.
        split: the images.
        seed: of the sweep.
    """
    sets = {"train": split.forget_train, "heldout": split.forget_heldout}
    return {part: _backgrounds(model, images, SETS["forget", part], seed) for part, images in sets.items()}


def nearest_retain_targets(
    model: ImageToImage, space: str, split: SplitData, inputs: Mapping[tuple[str, str], Rows]
) -> dict[str, LazyRows]:
    """Return, by split, the original's features of the retain training image nearest to a forget image.

    Args:
        model: the original; nearest is by the pixels that it sees.
        space: of the features.
        split: the images.
        inputs: model inputs keyed by (set, split).
    """
    features, hole = feature_function(model, space), model.removed_pixels()
    sets = {"train": split.forget_train, "heldout": split.forget_heldout}
    nearest = {
        part: nearest_rows(images.images, split.retain_train.images, hole) for part, images in sets.items()
    }
    return {part: _features_of(features, inputs["retain", "train"], rows) for part, rows in nearest.items()}


def _backgrounds(model: ImageToImage, images: ImageSet, place: int, seed: int) -> LazyRows:
    hole = model.removed_pixels()

    def make(rows: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
        filled = fill_hole(images.images[rows].to(hole.device), hole)
        with torch.no_grad():
            inputs = model.prepare(filled, generators_of(seed, Stream.INPUTS, rows, place))
            return model.perfect_output(inputs, model(inputs)).flatten(1)

    return LazyRows(len(images), make)


def _features_of(features: Features, inputs: Rows, chosen: Int[Tensor, " n"]) -> LazyRows:
    return LazyRows(len(chosen), lambda rows: features(inputs[chosen[rows]]))
