"""Features of image sets on disk, so that an image set passes a network once.

They are computed from images to forget and lie beside the run's other caches, where they may be deleted at any time.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_IDS = "image_ids"


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """Features of images, one row an image, in the order of ``ids``; float32 on the CPU."""

    ids: tuple[str, ...]
    values: Float[Tensor, "n d"]

    def rows_of(self, ids: Sequence[str]) -> Float[Tensor, "m d"]:
        """Return the rows of some images in their order.

        Raises:
            ValueError: there are other images on one side.
        """
        places = {image_id: row for row, image_id in enumerate(self.ids)}
        if places.keys() != set(ids) or len(ids) != len(self.ids):
            raise ValueError(f"expected features of the same {len(ids)} images, found {len(self.ids)} others")
        return self.values[[places[image_id] for image_id in ids]]


class FeatureFiles:
    """Files of features in a folder.

    Args:
        folder: where they lie; it exists.
        run_key: changes whenever the images of the run could.
    """

    def __init__(self, folder: Path, run_key: str) -> None:
        self._folder, self._run_key = folder, run_key

    def open(self, key: Sequence[str], compute: Callable[[], ImageFeatures]) -> ImageFeatures:
        """Return the features stored under a key, computing and storing them where there are none.

        Two processes that compute the same at once both store it, the second over the first.
        """
        name = hashlib.sha256(json.dumps([self._run_key, *key]).encode()).hexdigest()[:32]
        path = self._folder / f"features-{name}.safetensors"
        stored = _read(path)
        if stored is not None:
            return stored
        features = compute()
        _write(path, features)
        return features


def _read(path: Path) -> ImageFeatures | None:
    try:
        with safe_open(path, framework="pt") as file:
            return ImageFeatures(tuple(json.loads(file.metadata()[_IDS])), file.get_tensor("values"))
    except (FileNotFoundError, SafetensorError):
        return None


def _write(path: Path, features: ImageFeatures) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".features-") as folder:
        staging = Path(folder) / path.name
        save_file(
            {"values": features.values.contiguous()}, staging, metadata={_IDS: json.dumps(features.ids)}
        )
        os.replace(staging, path)  # noqa: PTH105 - says in one word that it overwrites
