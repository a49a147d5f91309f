"""Features of image sets on disk, so that an image set passes a network only once.

They are computed from images that are to be forgotten, and lie among the run's caches, where they may be
deleted at any time.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pareto_unlearn.whole_files import open_cached

_IDS = "image_ids"


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """Features of images, one row per image, in the order of ``ids``; float32 on the CPU."""

    ids: tuple[str, ...]
    values: Float[Tensor, "n d"]

    def rows_of(self, ids: Sequence[str]) -> Float[Tensor, "m d"]:
        """Return the rows in the order of ``ids``, which must name exactly these images.

        Raises:
            ValueError: ``ids`` names other images, more or fewer.
        """
        places = {image_id: row for row, image_id in enumerate(self.ids)}
        if places.keys() != set(ids) or len(ids) != len(self.ids):
            raise ValueError(f"expected features of the same {len(ids)} images, found {len(self.ids)} others")
        return self.values[[places[image_id] for image_id in ids]]


class FeatureFiles:
    """The feature files of a run, in one folder.

    Args:
        folder: an existing folder.
        run_key: a text that changes whenever the images of the run could have changed.
    """

    def __init__(self, folder: Path, run_key: str) -> None:
        self._folder, self._run_key = folder, run_key

    def open(self, key: Sequence[str], compute: Callable[[], ImageFeatures]) -> ImageFeatures:
        """Return the features stored under a key; if none are there, or damaged ones, compute them first."""
        name = hashlib.sha256(json.dumps([self._run_key, *key]).encode()).hexdigest()[:32]
        path = self._folder / f"features-{name}.safetensors"
        open_cached(path, lambda staging: _write(staging, compute()))
        with safe_open(path, framework="pt") as file:
            return ImageFeatures(tuple(json.loads(file.metadata()[_IDS])), file.get_tensor("values"))


def _write(path: Path, features: ImageFeatures) -> None:
    save_file({"values": features.values.contiguous()}, path, metadata={_IDS: json.dumps(features.ids)})
