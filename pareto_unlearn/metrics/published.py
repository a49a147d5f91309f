"""Published metrics under named protocols: which network, which way to resize, which splits.

- ``standard``: FID, KID, IS and CLIP cosine with the numbers of torch-fidelity.
- ``li2024-code``: the same metrics with the numbers of the code released with arXiv:2402.00351. Two
  deviations: the original images are those that the model was given, at its size (in the code, uncropped
  files), and no picture goes through a JPEG file.
- ``paper-text``: the same metrics as the text of the papers describes them.
- ``modern``: Fréchet and kernel distance in DINOv2's features (arXiv:2306.04675), the paired cosine of the
  same features, CLIP cosine and LPIPS.

A value is comparable only with values of the same protocol and number of images.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pareto_unlearn.catalogue.metrics import METRICS, PUBLISHED_KEYS
from pareto_unlearn.metrics.extractors import EXTRACTORS, Embed
from pareto_unlearn.metrics.feature_files import FeatureFiles, ImageFeatures
from pareto_unlearn.metrics.formulas import (
    blocked_parts,
    compute_frechet,
    compute_kernel_distance,
    compute_split_inception_score,
    mean_interval,
    paired_cosines,
    shuffled_parts,
)
from pareto_unlearn.metrics.weights import FoundWeights
from pareto_unlearn.records import MetricRow

BATCH = 32
SPLIT = "heldout"

Interval = tuple[float, float | None, float | None]
"""A value and the two ends of its interval, None without an interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One metric of a protocol: its name in rows, its extractor, and its arithmetic on (real, fake) features.

    If the extractor compares, real and fake are both its rows of the pairs. ``needs_truth`` is False if the
    arithmetic ignores ``real``.
    """

    metric: str
    extractor: str
    compute: Callable[[Float[Tensor, "n d"], Float[Tensor, "n d"]], Interval]
    needs_truth: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The held-out images of a set and a model's pictures of them: uint8 RGB in the order of ``ids``.

    ``truth`` and ``output`` are called only if features are not stored yet.
    """

    ids: tuple[str, ...]
    truth: Callable[[], UInt8[Tensor, "n 3 h w"]]
    output: Callable[[], UInt8[Tensor, "n 3 h w"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What is measured and with what: protocol, measures, verified weights, and the files of features."""

    protocol: str
    measures: tuple[Measure, ...]
    weights: Mapping[str, FoundWeights]
    files: FeatureFiles
    device: torch.device


def _only(value: float) -> Interval:
    return value, None, None


def _fid(real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"]) -> Interval:
    return _only(compute_frechet(real, fake))


def _kid(real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"]) -> Interval:
    return _only(compute_kernel_distance(real, fake))


def _shuffled_score(real: Float[Tensor, "n c"], fake: Float[Tensor, "n c"]) -> Interval:  # noqa: ARG001
    return _only(compute_split_inception_score(shuffled_parts(fake)))


def _blocked_score(real: Float[Tensor, "n c"], fake: Float[Tensor, "n c"]) -> Interval:  # noqa: ARG001
    return _only(compute_split_inception_score(blocked_parts(fake)))


def _cosine(real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"]) -> Interval:
    return mean_interval(paired_cosines(real, fake))


def _distance(real: Float[Tensor, "n 1"], fake: Float[Tensor, "n 1"]) -> Interval:  # noqa: ARG001
    if not torch.isfinite(fake).all():
        raise ValueError("a mean distance needs finite distances")
    return mean_interval(fake.flatten().double())


_CLIP = Measure(metric="clip", extractor="clip_vit_h_14", compute=_cosine)
_DINOV2 = "dinov2_vit_l_14"


def _protocol(features: str, score: Measure) -> dict[str, Measure]:
    return {
        "fid": Measure(metric="fid", extractor=features, compute=_fid),
        "kid": Measure(metric="kid", extractor=features, compute=_kid),
        "is": score,
        "clip": _CLIP,
    }


def _score(extractor: str, compute: Callable[..., Interval], metric: str = "is") -> Measure:
    return Measure(metric=metric, extractor=extractor, compute=compute, needs_truth=False)


PUBLISHED_MEASURES: dict[str, dict[str, Measure]] = {
    "standard": _protocol("inception_2015", _score("inception_2015_logits", _shuffled_score)),
    "li2024-code": _protocol(
        "inception_2015_clean", _score("torchvision_logits_as_released", _blocked_score)
    ),
    "paper-text": _protocol("torchvision_pooled", _score("torchvision_logits", _shuffled_score)),
    "modern": {
        "fd_dinov2": Measure(metric="fd_dinov2", extractor=_DINOV2, compute=_fid),
        "kd_dinov2": Measure(metric="kd_dinov2", extractor=_DINOV2, compute=_kid),
        "dino": Measure(metric="dino", extractor=_DINOV2, compute=_cosine),
        "clip": _CLIP,
        "lpips": Measure(metric="lpips", extractor="lpips_alex", compute=_distance, needs_truth=False),
    },
}
"""The computation of every metric of a protocol, by its key."""
SCORE_OF_PLACES = _score("places365_logits", _shuffled_score, "is_places365")
"""Classes of scenes need a classifier of scenes; another metric, so another name."""


def choose_measures(protocol: str, names: Iterable[str], dataset: str) -> tuple[Measure, ...]:
    """Return the measures of a protocol on a data set, for those of the keys that the protocol has.

    Raises:
        KeyError: the catalogue gives the protocol a metric that has no computation here.
    """
    known = dict(PUBLISHED_MEASURES.get(protocol, {}))
    if dataset == "places365" and protocol in ("li2024-code", "paper-text"):
        known["is"] = SCORE_OF_PLACES
    return tuple(known[name] for name in names if name in PUBLISHED_KEYS.get(protocol, ()))


def needed_files(measures: Iterable[Measure]) -> tuple[str, ...]:
    """Return the names of the weights files that measures need, each once."""
    files = (file for measure in measures for file in EXTRACTORS[measure.extractor].files)
    return tuple(dict.fromkeys(files))


def quantise(images: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """Return [0, 1] images as RGB pixels of 0 to 255, as in an image file; gray becomes three equal channels.

    Raises:
        ValueError: a pixel is not finite.
    """
    if not torch.isfinite(images).all():
        raise ValueError("cannot compute metrics: the images are not finite")
    pixels = (images.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    return pixels if pixels.shape[1] == 3 else pixels.expand(-1, 3, -1, -1)


def score_pictures(
    scoring: Scoring, pictures: Mapping[str, Pictures], output_key: str | None
) -> list[MetricRow]:
    """Return one row per measure and set.

    Args:
        scoring: what is measured.
        pictures: by set, forget and retain; both sets have the same number of images.
        output_key: name of the model, under which the features of its pictures are stored; with None only the
            features of the originals are stored.

    Raises:
        ValueError: the sets differ in size, a metric needs more images, or pixels or features are not finite.
        WeightsError: a file does not hold its network.
    """
    _require_counts(scoring.measures, pictures)
    rows: list[MetricRow] = []
    # One extractor after the other, so that no two networks are in memory at once.
    for extractor in dict.fromkeys(measure.extractor for measure in scoring.measures):
        looking = _Looking(scoring, extractor)
        chosen = [measure for measure in scoring.measures if measure.extractor == extractor]
        for name, one in pictures.items():
            real, fake = _see(looking, chosen, name, one, output_key)
            rows += [_row(scoring.protocol, measure, name, real, fake) for measure in chosen]
    order = [measure.metric for measure in scoring.measures]
    return sorted(rows, key=lambda row: (order.index(row.metric), row.set))


class _Looking:
    """Computes features with one network, which is opened when features are missing for the first time."""

    def __init__(self, scoring: Scoring, extractor: str) -> None:
        self._scoring, self._name = scoring, extractor
        self._digest = "+".join(str(scoring.weights[file].sha256) for file in EXTRACTORS[extractor].files)
        self._network = cache(self._open)
        self.compares = EXTRACTORS[extractor].compares

    def see(
        self,
        key: tuple[str, str | None, str],
        ids: tuple[str, ...],
        *images: Callable[[], UInt8[Tensor, "n 3 h w"]],
    ) -> ImageFeatures:
        kind, model, name = key
        compute = partial(self._compute, ids, images)
        if model is None:
            return compute()
        return self._scoring.files.open((kind, model, name, self._name, self._digest, str(len(ids))), compute)

    def _open(self) -> Embed:
        # Building a network draws random weights, which the file then replaces: the fork keeps them
        # from changing the random numbers that others draw.
        with torch.random.fork_rng(devices=[]):
            return EXTRACTORS[self._name].load(self._scoring.weights, self._scoring.device)

    def _compute(
        self, ids: tuple[str, ...], images: Sequence[Callable[[], UInt8[Tensor, "n 3 h w"]]]
    ) -> ImageFeatures:
        values = embed_all(self._network(), [one() for one in images], self._scoring.device)
        return ImageFeatures(ids, values)


def _see(
    looking: _Looking, measures: Iterable[Measure], name: str, one: Pictures, output_key: str | None
) -> tuple[ImageFeatures, ImageFeatures]:
    """Return the features of a set's originals and of its pictures.

    A comparing extractor has features of pairs, which are returned for both. Where no measure needs the
    originals, the features of the pictures are returned for both.
    """
    if looking.compares:
        pairs = looking.see(("pair", output_key, name), one.ids, one.truth, one.output)
        return pairs, pairs
    fake = looking.see(("output", output_key, name), one.ids, one.output)
    if not any(measure.needs_truth for measure in measures):
        return fake, fake
    return looking.see(("truth", "", name), one.ids, one.truth), fake


@torch.no_grad()
def embed_all(
    embed: Embed, images: Sequence[UInt8[Tensor, "n 3 h w"]], device: torch.device
) -> Float[Tensor, "n d"]:
    """Return the features of all images, or of all pairs, on the CPU; a GPU computes in full float32 too."""
    split = [torch.split(each, BATCH) for each in images]
    features = []
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        for batch in zip(*split, strict=True):
            on_device = [part.to(device) for part in batch]
            features.append(embed(*on_device).float().cpu())
    return torch.cat(features)


def _require_counts(measures: Iterable[Measure], pictures: Mapping[str, Pictures]) -> None:
    counts = {name: len(one.ids) for name, one in pictures.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"metrics of unequal sets cannot be compared: found {counts} images")
    for measure in measures:
        least = METRICS[measure.metric].least_images
        if min(counts.values()) < least:
            raise ValueError(f"{measure.metric} needs at least {least} images of each set, found {counts}")


def _row(protocol: str, measure: Measure, name: str, real: ImageFeatures, fake: ImageFeatures) -> MetricRow:
    value, low, high = measure.compute(real.rows_of(fake.ids), fake.values)
    return MetricRow(
        set=name,
        split=SPLIT,
        metric=measure.metric,
        protocol=protocol,
        value=value,
        low=low,
        high=high,
        n=len(fake.ids),
    )
