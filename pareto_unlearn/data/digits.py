"""The embedded data set: scikit-learn's handwritten digits."""

import hashlib

import numpy as np
import torch
from torch.nn import functional

from pareto_unlearn.data.image_sets import ImageSet
from pareto_unlearn.records import PixelFormat

DIGITS_SIDE = 16
DIGITS_PIXELS = PixelFormat(side=DIGITS_SIDE, channels=1)


def load_digits() -> ImageSet:
    """Return scikit-learn's 1,797 digits, enlarged from 8 to 16 pixels a side (bilinear)."""
    from sklearn.datasets import load_digits as load_bundle  # takes half a second, and few commands need it

    bundle = load_bundle()
    small = torch.from_numpy(bundle.images.astype(np.float32) / 16.0)[:, None]
    images = functional.interpolate(
        small, size=(DIGITS_SIDE, DIGITS_SIDE), mode="bilinear", align_corners=False
    )
    return ImageSet(
        images=images,
        class_ids=torch.from_numpy(bundle.target.astype(np.int64)),
        class_names=tuple(str(digit) for digit in range(10)),
        image_ids=tuple(f"digits-{index:04d}" for index in range(len(images))),
        sha256=tuple(hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images),
    )
