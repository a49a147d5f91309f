"""Sources of images: how a data set lists its images and opens the chosen ones."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from pareto_unlearn.data.image_sets import Digests, Images, ImageSet

HELDOUT_RATIO = 0.2


class Members(NamedTuple):
    """The image ids of one class, each split sorted."""

    train: tuple[str, ...]
    heldout: tuple[str, ...]


@runtime_checkable
class Source(Protocol):
    """A data set that lists images by class and opens them by id; classes not chosen are never read."""

    class_names: tuple[str, ...]

    def list_images(self, classes: Sequence[str]) -> Mapping[str, Members]:
        """Return the image ids of each of these classes."""
        ...

    def open(self, image_ids: Sequence[str]) -> tuple[Images, Digests]:
        """Return the images in the order of the ids, and their digests."""
        ...

    def identify(self, image_ids: Sequence[str]) -> Sequence[str]:
        """Return one text per image; two texts are equal exactly when the bytes of the two images are."""
        ...


class MemorySource:
    """A data set that lies whole in memory and has no split of its own."""

    def __init__(self, whole: ImageSet) -> None:
        self._whole = whole
        self.class_names = whole.class_names

    def list_images(self, classes: Sequence[str]) -> Mapping[str, Members]:
        """Return the image ids of each of these classes."""
        ids: dict[str, list[str]] = {name: [] for name in classes}
        for image_id, class_id in zip(self._whole.image_ids, self._whole.class_ids.tolist(), strict=True):
            name = self.class_names[class_id]
            if name in ids:
                ids[name].append(image_id)
        return {name: hold_out(members) for name, members in ids.items()}

    def open(self, image_ids: Sequence[str]) -> tuple[Images, Digests]:
        """Return copies of the images, and their digests."""
        places = {image_id: place for place, image_id in enumerate(self._whole.image_ids)}
        chosen = [places[image_id] for image_id in image_ids]
        return self._whole.images[chosen], tuple(self._whole.sha256[place] for place in chosen)

    def identify(self, image_ids: Sequence[str]) -> Sequence[str]:
        """Return the digests of images."""
        return tuple(self.open(image_ids)[1])


def hold_out(image_ids: Sequence[str]) -> Members:
    """Return a class in two parts: a fixed share, the images with the smallest hashes, is held out."""
    ranked = sorted(image_ids, key=lambda image_id: hashlib.sha256(image_id.encode()).hexdigest())
    count = round(HELDOUT_RATIO * len(ranked))
    return Members(train=tuple(sorted(ranked[count:])), heldout=tuple(sorted(ranked[:count])))


def mark_heldout(whole: ImageSet) -> Bool[Tensor, " n"]:
    """Return True for each image that ``hold_out`` holds out of its class."""
    heldout = torch.zeros(len(whole), dtype=torch.bool)
    for class_id in range(len(whole.class_names)):
        members = np.flatnonzero(whole.class_ids.numpy() == class_id).tolist()
        chosen = set(hold_out([whole.image_ids[place] for place in members]).heldout)
        heldout[[place for place in members if whole.image_ids[place] in chosen]] = True
    return heldout
