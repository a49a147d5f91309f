"""FID, KID, IS and CLIP cosine under named protocols: which network, which resize, which splits.

``standard`` has the numbers of torch-fidelity, ``li2024-code`` those of the code released with arXiv:2402.00351, ``paper-text`` what
the text of the papers says. A value is comparable only with values of its own protocol and count. Deviations from the
released code: the original images are those the model was given, at its size (there uncropped files), and no picture
goes through a JPEG file.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pareto_unlearn.metrics.extractors import EXTRACTORS, Embed
from pareto_unlearn.metrics.feature_files import FeatureFiles, ImageFeatures
from pareto_unlearn.metrics.formulas import (
    INCEPTION_SPLITS,
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

LEAST_IMAGES = {"fid": 2, "kid": 2, "is": INCEPTION_SPLITS, "is_places365": INCEPTION_SPLITS, "clip": 1}
"""Held-out images of each set that a metric needs at least."""
BATCH = 32
SPLIT = "heldout"

Interval = tuple[float, float | None, float | None]
"""A value and the two ends of its interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One metric of a protocol: the name in its rows, the extractor, and the arithmetic on (real, fake) features."""

    metric: str
    extractor: str
    compute: Callable[[Float[Tensor, "n d"], Float[Tensor, "n d"]], Interval]
    needs_truth: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The held-out images of one set and what a model made of them, both as uint8 RGB, in the order of ``ids``.

    The functions are called only where features are not stored yet.
    """

    ids: tuple[str, ...]
    truth: Callable[[], UInt8[Tensor, "n 3 h w"]]
    output: Callable[[], UInt8[Tensor, "n 3 h w"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What is measured and with what: the protocol, its measures, the verified weights, and where features are kept."""

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


def _protocol(features: str, score: Measure) -> dict[str, Measure]:
    return {
        "fid": Measure(metric="fid", extractor=features, compute=_fid),
        "kid": Measure(metric="kid", extractor=features, compute=_kid),
        "is": score,
        "clip": Measure(metric="clip", extractor="clip_vit_h_14", compute=_cosine),
    }


def _score(extractor: str, compute: Callable[..., Interval], metric: str = "is") -> Measure:
    return Measure(metric=metric, extractor=extractor, compute=compute, needs_truth=False)


_PROTOCOLS: dict[str, dict[str, Measure]] = {
    "standard": _protocol("inception_2015", _score("inception_2015_logits", _shuffled_score)),
    "li2024-code": _protocol(
        "inception_2015_clean", _score("torchvision_logits_as_released", _blocked_score)
    ),
    "paper-text": _protocol("torchvision_pooled", _score("torchvision_logits", _shuffled_score)),
}
_SCORE_OF_PLACES = _score("places365_logits", _shuffled_score, "is_places365")
"""Classes of scenes need a classifier of scenes; another metric, so another name."""


def choose_measures(protocol: str, names: Iterable[str], dataset: str) -> tuple[Measure, ...]:
    """Return what a protocol measures on a data set under some of the names fid, kid, is and clip; others are passed over."""
    known = dict(_PROTOCOLS.get(protocol, {}))
    if dataset == "places365" and protocol in ("li2024-code", "paper-text"):
        known["is"] = _SCORE_OF_PLACES
    return tuple(known[name] for name in names if name in known)


def needed_files(measures: Iterable[Measure]) -> tuple[str, ...]:
    """Return the names of the weight files that measures need, each once."""
    return tuple(dict.fromkeys(EXTRACTORS[measure.extractor].file for measure in measures))


def quantise(images: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """Return [0, 1] images as RGB of 0 to 255, as a file of them would hold it; gray becomes three equal channels.

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
        pictures: by set, forget and retain; as many of each.
        output_key: names the model, so that the features of its pictures are kept; None keeps only those of the originals.

    Raises:
        ValueError: the sets differ in size or a metric needs more images, or something is not finite.
        WeightsError: a file does not hold its network.
    """
    _require_counts(scoring.measures, pictures)
    rows: list[MetricRow] = []
    # By extractor, so that no two networks are in memory.
    for extractor in dict.fromkeys(measure.extractor for measure in scoring.measures):
        looking = _Looking(scoring, extractor)
        chosen = [measure for measure in scoring.measures if measure.extractor == extractor]
        for name, one in pictures.items():
            fake = looking.see(("output", output_key, name), one.ids, one.output)
            needs_truth = any(measure.needs_truth for measure in chosen)
            real = looking.see(("truth", "", name), one.ids, one.truth) if needs_truth else fake
            rows += [_row(scoring.protocol, measure, name, real, fake) for measure in chosen]
    order = [measure.metric for measure in scoring.measures]
    return sorted(rows, key=lambda row: (order.index(row.metric), row.set))


class _Looking:
    """Looks at images through one network, which is opened when the first features are missing."""

    def __init__(self, scoring: Scoring, extractor: str) -> None:
        self._scoring, self._name = scoring, extractor
        self._weights = scoring.weights[EXTRACTORS[extractor].file]
        self._network = cache(self._open)

    def see(
        self,
        key: tuple[str, str | None, str],
        ids: tuple[str, ...],
        images: Callable[[], UInt8[Tensor, "n 3 h w"]],
    ) -> ImageFeatures:
        kind, model, name = key
        compute = partial(self._compute, ids, images)
        if model is None:
            return compute()
        digest = str(self._weights.sha256)
        return self._scoring.files.open((kind, model, name, self._name, digest, str(len(ids))), compute)

    def _open(self) -> Embed:
        # Building a network draws weights that the file then replaces; nobody else's draws may change by that.
        with torch.random.fork_rng(devices=[]):
            return EXTRACTORS[self._name].load(self._weights, self._scoring.device)

    def _compute(self, ids: tuple[str, ...], images: Callable[[], UInt8[Tensor, "n 3 h w"]]) -> ImageFeatures:
        return ImageFeatures(ids, embed_all(self._network(), images(), self._scoring.device))


@torch.no_grad()
def embed_all(embed: Embed, images: UInt8[Tensor, "n 3 h w"], device: torch.device) -> Float[Tensor, "n d"]:
    """Return the features of all images on the CPU, in full float32 arithmetic on a GPU too."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        parts = [embed(part.to(device)).float().cpu() for part in torch.split(images, BATCH)]
    return torch.cat(parts)


def _require_counts(measures: Iterable[Measure], pictures: Mapping[str, Pictures]) -> None:
    counts = {name: len(one.ids) for name, one in pictures.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"metrics of unequal sets cannot be compared: found {counts} images")
    for measure in measures:
        if min(counts.values()) < LEAST_IMAGES[measure.metric]:
            raise ValueError(
                f"{measure.metric} needs at least {LEAST_IMAGES[measure.metric]} images of each set, found {counts}"
            )


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
