"""What a finished trial can prove: exact objectives, spreads, first-order residuals, metrics and samples."""

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from scipy.special import betaincinv
from torch import Tensor

from pareto_unlearn.catalogue.metrics import PUBLISHED_KEYS
from pareto_unlearn.config import SweepConfig
from pareto_unlearn.data import ImageSet
from pareto_unlearn.metrics import PictureScores, quantise, score_pictures
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.records import MetricRow, SampleRow, Scales
from pareto_unlearn.solver import FlatParameters, direction
from pareto_unlearn.trial.bank import Costs, spread_rows
from pareto_unlearn.trial.context import Material
from pareto_unlearn.trial.distances import forget_distances, retain_distances, take_batch
from pareto_unlearn.trial.image_metrics import generate, heldout_pictures
from pareto_unlearn.trial.second import SecondScores, load_second
from pareto_unlearn.trial.subset import choose_pictured, standard_error

HOLE_GREY = 0.5
WORST_SHARE = 0.05
LEAST_RANGE = 0.1
"""Smallest range of an image or class, as a share of the mean, in which its own e is counted."""
LOSSLESS_SIDE = 64
"""Pixels; a report of larger pictures without loss would be too large to open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completeness:
    """How completely a split of the forget set is forgotten: 1 - e on average and for the worst parts.

    ``worst_class_e`` is the largest e of any class, as a constraint on every class counts it: a range below
    ``LEAST_RANGE`` counts as that. ``per_class`` leaves out classes without an image in the split.
    ``worst_5pct`` is the 5 % quantile over images, each in units of its own range (an untouched image has 0;
    a range below ``LEAST_RANGE`` counts as that), and ``own_e`` is e of every image in that unit.
    ``f1_error`` is the standard error of f1, None if it was measured on all images.
    """

    f1: float
    f1_image_std: float
    f1_error: float | None
    e: float
    worst_class_e: float
    per_class: dict[str, float]
    worst_5pct: float
    own_e: Float[Tensor, " n"]

    @property
    def worst_class(self) -> float:
        """The smallest completeness of any class."""
        return min(self.per_class.values())

    def share_above(self, e: float) -> tuple[float, float]:
        """Return the share of images with own e above a level, and its upper 95 % Clopper-Pearson bound."""
        above, count = int((self.own_e > e).sum()), len(self.own_e)
        return above / count, upper_share(above, count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """First-order facts at the end, over the training sets, in units of e and of the outputs' variance.

    They are not a measure of quality: short runs look better by them than long ones.
    """

    norm_f1: float
    norm_f2: float
    cosine: float
    multiplier: float


def measure_completeness(
    material: Material, split: str, rows: Int[Tensor, " n"] | None = None
) -> Completeness:
    """Return f1 and the completeness of a split of the forget set, or of some rows of it.

    Exact, unless the sweep caps the images that are measured.
    """
    chosen = material.evaluated.get(("forget", split)) if rows is None else None
    rows = chosen if rows is None else rows
    f1, floor = forget_distances(material, split, rows).double(), material.scales.floor(split)
    original_f1 = material.targets.forget_f1(split).double()
    images = getattr(material.split, f"forget_{split}")
    class_ids = images.class_ids.to(f1.device)
    if rows is not None:
        original_f1, class_ids = original_f1[rows.to(f1.device)], class_ids[rows.to(f1.device)]
    gap, original_gap = f1 - floor, original_f1 - floor
    classes = {name: class_ids == index for index, name in enumerate(images.class_names)}
    own = gap / original_gap.clamp(min=LEAST_RANGE * float(original_gap.mean()))
    return Completeness(
        f1=float(f1.mean()),
        f1_image_std=float(f1.std()) if len(f1) > 1 else 0.0,
        f1_error=None if chosen is None else standard_error(f1, len(images)),
        e=float(gap.mean() / original_gap.mean()),
        worst_class_e=_worst_class_e(classes.values(), gap, original_gap),
        per_class=_per_class(classes, gap, original_gap),
        worst_5pct=1.0 - float(torch.quantile(own, 1.0 - WORST_SHARE)),
        own_e=own,
    )


def _worst_class_e(
    classes: Iterable[Bool[Tensor, " n"]], gap: Float[Tensor, " n"], original_gap: Float[Tensor, " n"]
) -> float:
    """Return the largest e of any class, in the units of ``class_weights``."""
    means = [(gap[chosen].mean(), original_gap[chosen].mean()) for chosen in classes if chosen.any()]
    least = LEAST_RANGE * float(torch.stack([original for _, original in means]).mean())
    return max(float(mean / original.clamp(min=max(least, 1e-12))) for mean, original in means)


def _per_class(
    classes: Mapping[str, Bool[Tensor, " n"]], gap: Float[Tensor, " n"], original_gap: Float[Tensor, " n"]
) -> dict[str, float]:
    """Return the completeness of every class that has images."""
    return {
        name: 1.0 - float(gap[chosen].mean() / original_gap[chosen].mean().clamp(min=1e-12))
        for name, chosen in classes.items()
        if chosen.any()
    }


def upper_share(hits: int, count: int, confidence: float = 0.95) -> float:
    """Return the upper end of a share's one-sided Clopper-Pearson interval: about 3 / count at no hits."""
    if hits >= count:
        return 1.0
    return float(betaincinv(hits + 1, count - hits, confidence))


class RetainLoss(NamedTuple):
    """f2, and its standard error, None if it was measured on all images."""

    f2: float
    error: float | None


def measure_retain_loss(material: Material, split: str) -> float:
    """Return f2 over a split of the retain set; exact, unless the sweep caps the images."""
    return measure_retain(material, split).f2


def measure_retain(material: Material, split: str) -> RetainLoss:
    """Return f2 over a split of the retain set, with its standard error where the images are capped."""
    rows = material.evaluated.get(("retain", split))
    f2 = retain_distances(material, split, rows).double()
    total = len(material.inputs["retain", split])
    return RetainLoss(float(f2.mean()), None if rows is None else standard_error(f2, total))


def measure_costs(material: Material, limit: int, bounded: str = "mean") -> Costs:
    """Return the raw costs over at most ``limit`` images of each training set, spread evenly over it.

    Args:
        material: of the trial; its model is measured as it stands.
        limit: largest number of images of a set.
        bounded: what epsilon bounds (``solver.completeness``).
    """
    forget, retain = (
        spread_rows(len(material.inputs[name, "train"]), limit) for name in ("forget", "retain")
    )
    completeness = measure_completeness(material, "train", forget)
    f2 = retain_distances(material, "train", retain)
    level = level_of(completeness, material.scales, bounded)
    return Costs(completeness.f1, float(f2.double().mean()), level)


def level_of(completeness: Completeness, scales: Scales, bounded: str, split: str = "train") -> float:
    """Return raw f1 of what epsilon bounds: the mean, or with ``per_class`` the worst class.

    A constraint for every image is a penalty that moves the mean, so there it is the mean too.
    """
    return completeness.f1 if bounded != "per_class" else scales.f1_at(completeness.worst_class_e, split)


def measure_residual(material: Material, flat: FlatParameters) -> Residual:
    """Return the first-order residual of min f2 s.t. f1 <= epsilon at the current weights.

    Over the whole training sets, or what the sweep caps them at.
    """
    features, scales = material.features(), material.scales

    def forget(rows: Tensor) -> Tensor:
        batch = take_batch(material, ("forget", "train"), rows)
        return material.forget_target.per_image(features(batch.inputs), batch).sum() / scales.f1_range

    def retain(rows: Tensor) -> Tensor:
        batch = take_batch(material, ("retain", "train"), rows)
        return material.retain_target.per_image(features(batch.inputs), batch).sum() / scales.variance_retain

    g1, g2 = (
        _whole_gradient(flat, loss, _evaluated_rows(material, name), material)
        for name, loss in (("forget", forget), ("retain", retain))
    )
    norm1, norm2 = float(g1.norm()), float(g2.norm())
    _, eta = direction(g1, g2, 0.0)
    cosine = float(torch.dot(g1, g2)) / (norm1 * norm2) if norm1 * norm2 > 0 else float("nan")
    return Residual(norm_f1=norm1, norm_f2=norm2, cosine=cosine, multiplier=float(eta))


def measure_metrics(config: SweepConfig, material: Material) -> list[MetricRow]:
    """Return the image metrics of both held-out sets, and of their second reconstructions if configured."""
    second = load_second(config, material)
    rows: list[MetricRow] = []
    kept: dict[str, list[Tensor]] = {}
    pictured = choose_pictured(config, material.split)
    places: dict[str, Tensor] = {}
    for name in ("forget", "retain"):
        everything = torch.arange(len(getattr(material.split, f"{name}_heldout")))
        places[name] = pictured.get((name, "heldout"), everything)
        found, kept[name] = _measure_set(config, material, second, name, places[name])
        rows += found
    if material.scoring is None:
        return rows

    def outputs(name: str, chosen: Tensor) -> Tensor:
        return torch.cat(kept[name])[torch.searchsorted(places[name], chosen)]

    heldout = heldout_pictures(material.split, outputs, pictured)
    return rows + score_pictures(material.scoring, heldout, None)


def _measure_set(
    config: SweepConfig,
    material: Material,
    second: ImageToImage | None,
    name: str,
    rows: Int[Tensor, " n"],
) -> tuple[list[MetricRow], list[UInt8[Tensor, "b 3 h w"]]]:
    """Return the metrics that need no published network, and the pictures for those that do.

    The pictures are a list of batches, empty if no such metric is measured.
    """
    images = getattr(material.split, f"{name}_heldout").images
    published = PUBLISHED_KEYS.get(config.evaluate.protocol, ())
    names = tuple(metric for metric in config.evaluate.metrics if metric not in published)
    scores = PictureScores(names, material.model.removed_pixels(), material.classifier)
    again = None if second is None else SecondScores(second, material, names, name)
    kept = []
    # Batch by batch: all held-out pictures of ImageNet at once would be gigabytes.
    for chosen in torch.split(rows, material.model.evaluation_batch):
        pictures, truth = reconstruct(material, name, chosen), images[chosen].to(material.device)
        scores.add(pictures, truth)
        if again is not None:
            again.add(pictures, truth, chosen)
        if material.scoring is not None:
            kept.append(quantise(pictures).cpu())
    found = scores.rows(image_set=name, split="heldout")
    return found + ([] if again is None else again.rows()), kept


def completeness_rows(
    completeness: Completeness, split: str, images: ImageSet, rows: Int[Tensor, " n"] | None = None
) -> list[MetricRow]:
    """Return the completeness of every forget class that has images as metric rows.

    ``rows`` are the images that were measured, None for all of them.
    """
    class_ids = images.class_ids if rows is None else images.class_ids[rows]
    bins = torch.bincount(class_ids, minlength=len(images.class_names)).tolist()
    counts = dict(zip(images.class_names, bins, strict=True))
    return [
        MetricRow(
            set="forget",
            split=split,
            metric="completeness",
            protocol="objective",
            value=value,
            n=counts[name],
            class_name=name,
        )
        for name, value in completeness.per_class.items()
    ]


def draw_samples(config: SweepConfig, material: Material, *, with_truth: bool) -> list[SampleRow]:
    """Return some held-out images as the model reconstructs them, the same images for every trial.

    ``with_truth`` adds the image with its hole and the true image.
    """
    rows: list[SampleRow] = []
    removed = material.model.removed_pixels().cpu()
    for name, split, images in material.split.items():
        if split != "heldout":
            continue
        index = _first_of_each_class(images, config.evaluate.samples_per_class)[: config.evaluate.max_samples]
        if not index:
            continue
        outputs = reconstruct(material, name, torch.tensor(index)).cpu()
        kinds = {"output": outputs}
        if with_truth:
            truth = images.images[index]
            kinds |= {"input": truth.masked_fill(removed, HOLE_GREY), "truth": truth}
        for kind, pictures in kinds.items():
            rows += [
                _sample(name, kind, images, position, picture)
                for position, picture in zip(index, pictures, strict=True)
            ]
    return rows


def _sample(
    name: str, kind: str, images: ImageSet, position: int, picture: Float[Tensor, "c h w"]
) -> SampleRow:
    return SampleRow(
        set=name,
        image_id=images.image_ids[position],
        class_name=images.class_names[int(images.class_ids[position])],
        kind=kind,
        image=encode_webp(picture),
        width=picture.shape[-1],
        height=picture.shape[-2],
    )


def reconstruct(material: Material, name: str, rows: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
    """Return held-out images of a set with their holes generated; draws depend on the image alone."""
    images = getattr(material.split, f"{name}_heldout").images
    return torch.cat(
        [
            generate(material.model, images, material.seed, material.device, name, part)
            for part in torch.split(rows, material.model.evaluation_batch)
        ]
    )


def encode_webp(image: Float[Tensor, "c h w"]) -> bytes:
    """Return a [0, 1] image as a WebP file: lossless up to 64 pixels a side, above at quality 90."""
    pixels = (image * 255.0).round().to(torch.uint8).numpy()
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    buffer = io.BytesIO()
    lossless = max(picture.size) <= LOSSLESS_SIDE
    picture.convert("RGB").save(buffer, "WEBP", lossless=lossless, quality=90)
    return buffer.getvalue()


def _first_of_each_class(images: ImageSet, count: int) -> list[int]:
    return [
        position
        for class_id in range(len(images.class_names))
        for position in (images.class_ids == class_id).nonzero().flatten().tolist()[:count]
    ]


def _evaluated_rows(material: Material, name: str) -> Int[Tensor, " n"]:
    """Return the training images of a set that finished models are measured on."""
    everything = torch.arange(len(material.inputs[name, "train"]))
    return material.evaluated.get((name, "train"), everything)


def _whole_gradient(
    flat: FlatParameters,
    loss_of_rows: Callable[[Tensor], Tensor],
    chosen: Int[Tensor, " n"],
    material: Material,
) -> Float[Tensor, " p"]:
    """Sum the gradient over rows in batches of a fixed size, then divide by their number."""
    total, part = torch.zeros_like(flat.values), torch.empty_like(flat.values)
    for rows in material.ranks.share_out(torch.split(chosen, material.model.evaluation_batch)):
        flat.compute_gradient(partial(loss_of_rows, rows), part)
        total += part
    material.ranks.add(total)
    return total / len(chosen)
