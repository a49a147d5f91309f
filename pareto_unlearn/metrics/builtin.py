"""Errors in the hole, and distances in the feature network of the embedded data.

Images are [0, 1] pixels. Every number carries its protocol: ``pixel`` for errors in the hole, ``builtin`` for
distances in the features of a small digit classifier that ships with the package. ``builtin`` values have the
formulas of FID, IS and CLIP similarity but not their networks, so they never carry those names.
"""

from collections.abc import Callable
from importlib.resources import files

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from pareto_unlearn.metrics.formulas import (
    compute_frechet,
    compute_inception_score,
    compute_psnr,
    mean_interval,
)
from pareto_unlearn.records import MetricRow, WeightsError

CLASSIFIER_FILE = "digits_classifier.safetensors"

_Measured = tuple[str, str, float, float | None, float | None]
"""Metric, protocol, value, and the two ends of its interval."""


class DigitClassifier(nn.Module):
    """A two-layer convolution net over 16-pixel digits; its 32 features and 10 logits are the builtin protocol."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.second = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.embed = nn.Linear(512, 32)
        self.classify = nn.Linear(32, 10)

    def features(self, images: Float[Tensor, "n 1 16 16"]) -> Float[Tensor, "n 32"]:
        """Return the embedding of [0, 1] images."""
        hidden = functional.gelu(self.second(functional.gelu(self.first(images - 0.5))))
        return functional.gelu(self.embed(hidden.flatten(1)))

    def forward(self, images: Float[Tensor, "n 1 16 16"]) -> Float[Tensor, "n 10"]:
        """Return class logits of [0, 1] images."""
        return self.classify(self.features(images))  # type: ignore[no-any-return]


def load_classifier(device: torch.device | None = None) -> DigitClassifier:
    """Load the classifier that ships with the package, in evaluation mode.

    Raises:
        WeightsError: the file is missing from the installation.
    """
    path = files("pareto_unlearn") / "assets" / CLASSIFIER_FILE
    if not path.is_file():
        raise WeightsError(
            f"{path}: the classifier of the builtin protocol is missing; install the package again"
        )
    model = DigitClassifier()
    model.load_state_dict(load_file(str(path)))
    return model.to(device or torch.device("cpu")).eval()


def compute_metrics(
    names: tuple[str, ...],
    images: Float[Tensor, "n c h w"],
    truth: Float[Tensor, "n c h w"],
    removed: Bool[Tensor, "h w"],
    classifier: DigitClassifier | None,
    *,
    image_set: str,
    split: str,
) -> list[MetricRow]:
    """Return one row per metric for the images of one set and split.

    Args:
        names: any of mse, psnr, frechet, inception, cosine.
        images: the model's reconstructions.
        truth: the originals, in the same order.
        removed: True where pixels were generated; ``mse`` and ``psnr`` look there alone.
        classifier: the feature network of the builtin protocol; None where only mse and psnr are wanted.
        image_set: forget or retain, for the rows.
        split: train or heldout, for the rows.

    Raises:
        ValueError: pixels are not finite (a distance over them could end the process).
    """
    if not torch.isfinite(images).all():
        raise ValueError("cannot compute metrics: the reconstructed images are not finite")
    squared = (images - truth).square()[..., removed].mean(dim=(1, 2)).double()
    values: dict[str, Callable[[], _Measured]] = {
        "mse": lambda: ("mse_hole", "pixel", *mean_interval(squared)),
        "psnr": lambda: ("psnr_hole", "pixel", compute_psnr(float(squared.mean())), None, None),
    }
    if classifier is not None and not values.keys() >= set(names):
        values |= _builtin_metrics(images, truth, classifier)
    where, count = {"set": image_set, "split": split}, len(images)
    return [
        MetricRow(metric=metric, protocol=protocol, value=value, low=low, high=high, n=count, **where)
        for metric, protocol, value, low, high in (values[name]() for name in names)
    ]


@torch.no_grad()
def _builtin_metrics(
    images: Float[Tensor, "n 1 h w"], truth: Float[Tensor, "n 1 h w"], classifier: DigitClassifier
) -> dict[str, Callable[[], _Measured]]:
    fake, real, logits = classifier.features(images), classifier.features(truth), classifier(images)
    cosine = functional.cosine_similarity(fake, real).double()
    return {
        "frechet": lambda: ("frechet_distance", "builtin", compute_frechet(real, fake), None, None),
        "inception": lambda: ("inception_score", "builtin", compute_inception_score(logits), None, None),
        "cosine": lambda: ("embedding_cosine", "builtin", *mean_interval(cosine)),
    }
