"""Errors in the hole, and distances in the feature network of the embedded data.

Images are [0, 1] pixels. Every value carries its protocol: ``pixel`` for errors in the hole, ``builtin`` for
distances in the features of a small digit classifier that ships with the package. ``builtin`` values use the
formulas of FID, IS and CLIP similarity but not their networks, so they never carry those names.
"""

from collections.abc import Callable, Sequence
from importlib.resources import files

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from pareto_unlearn.errors import WeightsError
from pareto_unlearn.metrics.formulas import (
    compute_frechet,
    compute_inception_score,
    compute_psnr,
    mean_interval,
)
from pareto_unlearn.records import MetricRow

CLASSIFIER_FILE = "digits_classifier.safetensors"
_PIXEL_NAMES = {"mse", "psnr"}

_Measured = tuple[str, str, float, float | None, float | None]
"""Metric, protocol, value, and the two ends of its interval."""


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


class PictureScores:
    """The metrics of one set of pictures, which are added batch by batch; only errors and features are kept.

    Args:
        names: any of mse, psnr, frechet, inception, cosine.
        removed: True where pixels were generated; ``mse`` and ``psnr`` are computed over these pixels only.
        classifier: the feature network of the builtin protocol; may be None if ``names`` has only mse and
            psnr.
    """

    def __init__(
        self, names: Sequence[str], removed: Bool[Tensor, "h w"], classifier: DigitClassifier | None
    ) -> None:
        self._names, self._removed = tuple(names), removed
        self._classifier = None if set(names) <= _PIXEL_NAMES else classifier
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
            image_set: forget or retain, as the rows are to name it.
            split: train or heldout, as the rows are to name it.

        Raises:
            ValueError: no picture was added.
        """
        if not self._squared:
            raise ValueError("expected pictures to measure, found none")
        where, count = {"set": image_set, "split": split}, sum(map(len, self._squared))
        measured = self._measured()
        return [
            MetricRow(metric=metric, protocol=protocol, value=value, low=low, high=high, n=count, **where)
            for metric, protocol, value, low, high in (measured[name]() for name in self._names)
        ]

    def _measured(self) -> dict[str, Callable[[], _Measured]]:
        squared = torch.cat(self._squared)
        values: dict[str, Callable[[], _Measured]] = {
            "mse": lambda: ("mse_hole", "pixel", *mean_interval(squared)),
            "psnr": lambda: ("psnr_hole", "pixel", compute_psnr(float(squared.mean())), None, None),
        }
        if not self._seen:
            return values
        fake, real, logits = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        cosine = functional.cosine_similarity(fake, real).double()
        return values | {
            "frechet": lambda: ("frechet_distance", "builtin", compute_frechet(real, fake), None, None),
            "inception": lambda: (
                "inception_score",
                "builtin",
                compute_inception_score(logits),
                None,
                None,
            ),
            "cosine": lambda: ("embedding_cosine", "builtin", *mean_interval(cosine)),
        }
