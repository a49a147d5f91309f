"""Folders of image files for tests to read, and what they ask of a split."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pareto_unlearn.config import DataSection
from pareto_unlearn.data import SplitData, load_split, write_manifest
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import PixelFormat

SIDE = 8
EXACT = PixelFormat(side=SIDE, channels=3)
SQUASH = PixelFormat(side=SIDE, channels=3, fit="squash", resample="bilinear")
CROP = PixelFormat(side=SIDE, channels=3, fit="crop")


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return an image in which no two pixels are alike."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def save(image: Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def make_folder(root: Path, classes: int = 3, images: int = 10, side: int = SIDE) -> Path:
    """Write <root>/<class>/<image>.png, the later names first, as a file system may list them."""
    for class_id in reversed(range(classes)):
        for number in reversed(range(images)):
            seed = class_id * 1000 + number
            save(noise(side, side, seed), root / f"c{class_id}" / f"{number:03d}.png")
    return root


def section(root: Path, dataset: str = "folder", **changes) -> DataSection:
    values = {"dataset": dataset, "root": str(root), "forget_classes": ["c0"], "retain_classes": ["c1", "c2"]}
    return DataSection.model_validate(values | changes)


def rows_of(split: SplitData) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(write_manifest(split))))


def ids_of(split: SplitData) -> dict[str, tuple[str, ...]]:
    return {f"{name}_{part}": images.image_ids for name, part, images in split.items()}


def refused(config: DataSection, pixels: PixelFormat = EXACT) -> str:
    with pytest.raises(ConfigError) as caught:
        load_split(config, 0, pixels)
    return str(caught.value)
