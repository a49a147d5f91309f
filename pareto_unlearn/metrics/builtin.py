"""Errors in the hole, and distances in the feature network of the embedded data.

Images are [0, 1] pixels. Every value carries its protocol: ``pixel`` for errors in the hole, ``builtin`` for
distances in the features of a small digit classifier that ships with the package. ``builtin`` values use the
formulas of FID, IS and CLIP similarity but not their networks, so they never carry those names.
"""

from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from pareto_unlearn.catalogue.metrics import BUILTIN_ROWS, PIXEL_KEYS
from pareto_unlearn.errors import WeightsError
from pareto_unlearn.metrics.formulas import (
    compute_frechet,
    compute_inception_score,
    compute_psnr,
    mean_interval,
)
from pareto_unlearn.records import MetricRow

CLASSIFIER_FILE = "digits_classifier.safetensors"

_Measured = tuple[float, float | None, float | None]
"""A value and the lower and upper end of its interval; None if there is no interval."""


class DigitClassifier(nn.Module):
    """A small convolution net over 16-pixel digits, with the 32 features and 10 logits of ``builtin``."""

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


class Seen(NamedTuple):
    """The measurements from which all metrics of a set are computed, one row per picture.

    ``squared`` is the mean squared error in the hole, in float64; ``fake`` and ``real`` are the features of
    the picture and of the original. Without the classifier, features and logits are empty.
    """

    squared: Float[Tensor, " n"]
    fake: Float[Tensor, "n d"]
    real: Float[Tensor, "n d"]
    logits: Float[Tensor, "n c"]


BUILTIN_MEASURES: dict[str, Callable[[Seen], _Measured]] = {
    "mse": lambda seen: mean_interval(seen.squared),
    "psnr": lambda seen: (compute_psnr(float(seen.squared.mean())), None, None),
    "frechet": lambda seen: (compute_frechet(seen.real, seen.fake), None, None),
    "inception": lambda seen: (compute_inception_score(seen.logits), None, None),
    "cosine": lambda seen: mean_interval(functional.cosine_similarity(seen.fake, seen.real).double()),
}
"""The computation of every metric that needs no published network, by key."""


class PictureScores:
    """The metrics of one set of pictures, which are added batch by batch; only errors and features are kept.

    Args:
        names: keys of metrics that need no published network.
        removed: True where pixels were generated; ``mse`` and ``psnr`` are computed there only.
        classifier: the feature network of the builtin protocol; None if only errors of pixels are computed.

    Raises:
        ValueError: a metric needs the classifier, and there is none.
    """

    def __init__(
        self, names: Sequence[str], removed: Bool[Tensor, "h w"], classifier: DigitClassifier | None
    ) -> None:
        self._names, self._removed = tuple(names), removed
        others = [name for name in names if name not in PIXEL_KEYS]
        if others and classifier is None:
            raise ValueError(f"{', '.join(others)} need the digit classifier, found none")
        self._classifier = classifier if others else None
        self._squared: list[Tensor] = []
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    @torch.no_grad()
    def add(self, images: Float[Tensor, "n c h w"], truth: Float[Tensor, "n c h w"]) -> None:
        """Add a batch: pictures that a model made, and the originals in the same order.

        Raises:
            ValueError: pixels are not finite (computing a distance over them could end the process).
        """
        if not torch.isfinite(images).all():
            raise ValueError("cannot compute metrics: the reconstructed images are not finite")
        self._squared.append((images - truth).square()[..., self._removed].mean(dim=(1, 2)).double())
        if self._classifier is not None:
            fake, real = self._classifier.features(images), self._classifier.features(truth)
            self._seen.append((fake, real, self._classifier(images)))

    def rows(self, *, image_set: str, split: str) -> list[MetricRow]:
        """Return one row per metric over all pictures added so far, in the order of the names.

        Args:
            image_set: the set to write into the rows, forget or retain.
            split: the split to write into the rows, train or heldout.

        Raises:
            ValueError: no picture was added.
        """
        if not self._squared:
            raise ValueError("expected pictures to measure, found none")
        where, seen = {"set": image_set, "split": split}, self._all_seen()
        rows = []
        for name in self._names:
            row, (value, low, high) = BUILTIN_ROWS[name], BUILTIN_MEASURES[name](seen)
            rows.append(
                MetricRow(
                    metric=row.name,
                    protocol=row.source.value,
                    value=value,
                    low=low,
                    high=high,
                    n=len(seen.squared),
                    **where,
                )
            )
        return rows

    def _all_seen(self) -> Seen:
        squared = torch.cat(self._squared)
        if not self._seen:
            nothing = torch.empty(0, 0)
            return Seen(squared, nothing, nothing, nothing)
        fakes, reals, logits = zip(*self._seen, strict=True)
        return Seen(squared, torch.cat(fakes), torch.cat(reals), torch.cat(logits))
