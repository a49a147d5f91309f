"""What f1 and f2 are measured from: outputs of the original, targets of forget images, and a run's scales."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.objectives.features import (
    EVALUATION_BATCH,
    Features,
    Rows,
    compute_features,
    iterate_features,
)
from pareto_unlearn.objectives.losses import NoiseTarget, Objectives, distances
from pareto_unlearn.records import Scales

CHUNK_VALUES = 2**26
"""Values turned into float64 at a time."""

SPLITS = ("train", "heldout")
SMALL = ("noise", "noise_mean", "forget_f1_train", "forget_f1_heldout")
"""The arrays that fit into the memory of any device."""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What is computed once a run: its scales, and flat float32 arrays by name, memory-mapped.

    ``forget_f1_train`` and ``forget_f1_heldout`` hold f1 of the original for every forget image. The other
    arrays are outputs that every trial compares with, and which of them there are follows from the sweep:
    ``noise`` and ``noise_mean`` are what all forget images share, the original's outputs on the noise bank or
    the mean of those on the retain images; ``retain_*`` are those on the retain images, where they are
    stored. The targets of single forget images are stored under the name of ``objective.forget_target``,
    such as ``reference_*``.
    """

    scales: Scales
    arrays: Mapping[str, Tensor]

    @property
    def noise(self) -> NoiseTarget:
        """What all forget images share."""
        return NoiseTarget(self.arrays["noise"], self.arrays["noise_mean"], self.scales.f1_floor)

    def forget_f1(self, split: str) -> Float[Tensor, " n"]:
        """Return f1 of the original for every forget image of a split."""
        return self.arrays[f"forget_f1_{split}"]

    def stored(self, name: str) -> dict[str, Float[Tensor, "n d"]]:
        """Return the stored outputs for whole image sets, by split: ``retain``, or a forget target's."""
        return {split: self.arrays[f"{name}_{split}"] for split in SPLITS}

    def to(self, device: torch.device) -> "Targets":
        """Return the targets for a device; large outputs on images stay mapped to their files."""
        moved = {name: self.arrays[name].to(device) for name in SMALL if name in self.arrays}
        return Targets(self.scales, {**self.arrays, **moved})


def compute_targets(
    features: Features,
    inputs: Mapping[tuple[str, str], Rows],
    noise_inputs: Rows,
    objectives: Objectives,
    *,
    batch: int = EVALUATION_BATCH,
    spill: Path | None = None,
    keep_retain: bool = True,
) -> Targets:
    """Run the original model over the noise bank and all image sets.

    Args:
        features: of the original model.
        inputs: model inputs keyed by (set, split).
        noise_inputs: the noise bank x_n, already drawn.
        objectives: which distance the scales are measured in.
        batch: how many inputs at once.
        spill: folder for arrays that are too large for memory.
        keep_retain: keep the outputs on retain images; False if the original runs beside the trained model.
    """
    noise = _noise_target(compute_features(features, noise_inputs, batch=batch), objectives.distance)
    return _shared_targets(
        features, inputs, noise, objectives, batch=batch, spill=spill, keep_retain=keep_retain
    )


def compute_mean_targets(
    features: Features,
    inputs: Mapping[tuple[str, str], Rows],
    objectives: Objectives,
    *,
    batch: int = EVALUATION_BATCH,
    spill: Path | None = None,
    keep_retain: bool = True,
) -> Targets:
    """Run the original over all image sets; the target is the mean of its outputs on the retain training set.

    It is a single output that the model can give, so the floor of f1 is 0. The arguments are those of
    ``compute_targets``.
    """
    outputs = iterate_features(features, inputs["retain", "train"], batch)
    mean = _mean_of(part for _, part in outputs).float()
    return _shared_targets(
        features,
        inputs,
        NoiseTarget(mean[None], mean, floor=0.0),
        objectives,
        batch=batch,
        spill=spill,
        keep_retain=keep_retain,
    )


def _shared_targets(
    features: Features,
    inputs: Mapping[tuple[str, str], Rows],
    noise: NoiseTarget,
    objectives: Objectives,
    *,
    batch: int,
    spill: Path | None,
    keep_retain: bool,
) -> Targets:
    f1 = {
        split: torch.cat(
            [
                objectives.forget_per_image(part, noise)
                for _, part in iterate_features(features, inputs["forget", split], batch)
            ]
        )
        for split in SPLITS
    }
    kept, spread = _retain_targets(features, inputs, objectives, batch, spill, keep_retain)
    kept |= {"noise": noise.rows, "noise_mean": noise.mean}
    return Targets(
        _measure_scales(f1, spread, dict.fromkeys(SPLITS, noise.floor)), kept | _by_name("forget_f1", f1)
    )


def compute_paired_targets(
    features: Features,
    inputs: Mapping[tuple[str, str], Rows],
    noise: Mapping[str, tuple[Rows, Rows]],
    objectives: Objectives,
    *,
    batch: int = EVALUATION_BATCH,
) -> Targets:
    """Measure f1 of the original where each input has its own noise target; no outputs are kept.

    Args:
        features: of the original model.
        inputs: model inputs keyed by (set, split).
        noise: by split, the noise inputs of the forget images, and once more with other draws.
        objectives: which distance is measured.
        batch: how many inputs at once.
    """
    f1, floors = {}, {}
    for split, (first, second) in noise.items():
        parts, gaps = [], []
        for rows, part in iterate_features(features, inputs["forget", split], batch):
            with torch.no_grad():
                target, other = features(first[rows]), features(second[rows])
            parts.append(objectives.paired_per_image(part, target))
            gaps.append(objectives.paired_per_image(target, other))
        f1[split] = torch.cat(parts)
        # Of independent draws, E|t - t'|^2 = 2 V, and norms of differences are root two longer.
        floors[split] = float(torch.cat(gaps).double().mean()) / (
            2.0 if objectives.distance == "mse" else 2.0**0.5
        )
    _, spread = _retain_targets(features, inputs, objectives, batch, None, keep=False)
    return Targets(_measure_scales(f1, spread, floors), _by_name("forget_f1", f1))


def compute_own_targets(
    features: Features,
    wanted: Mapping[str, Rows],
    inputs: Mapping[tuple[str, str], Rows],
    objectives: Objectives,
    *,
    name: str | None,
    batch: int = EVALUATION_BATCH,
    spill: Path | None = None,
    keep_retain: bool = True,
) -> Targets:
    """Run the original over all images, where every forget image has a target that a model can reach.

    So the floor of f1 is 0.

    Args:
        features: of the original model.
        wanted: by split, the target of every forget image: a reference's features, or made from images.
        inputs: model inputs keyed by (set, split).
        objectives: which distance is measured.
        name: what the targets are stored as; None keeps none of them, since trials make them anew.
        batch: how many inputs at once.
        spill: folder for arrays that are too large for memory.
        keep_retain: keep the outputs on retain images; False if the original runs beside the trained model.
    """
    kept, spread = _retain_targets(features, inputs, objectives, batch, spill, keep_retain)
    f1: dict[str, Tensor] = {}
    for split in SPLITS:
        goals = wanted[split]
        if name is not None:
            goals = compute_features(lambda rows: rows, goals, batch=batch, spill=spill)
            kept[f"{name}_{split}"] = goals
        parts = []
        for rows, part in iterate_features(features, inputs["forget", split], batch):
            with torch.no_grad():
                goal = goals[rows].to(part.device)
            parts.append(objectives.paired_per_image(part, goal))
        f1[split] = torch.cat(parts)
    return Targets(_measure_scales(f1, spread, dict.fromkeys(SPLITS, 0.0)), kept | _by_name("forget_f1", f1))


def _retain_targets(
    features: Features,
    inputs: Mapping[tuple[str, str], Rows],
    objectives: Objectives,
    batch: int,
    spill: Path | None,
    keep: bool,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return the original's outputs on retain images, empty unless kept, and their spread by split."""
    kept: dict[str, Tensor] = {}
    spreads: dict[str, float] = {}
    for split in SPLITS:
        images, name = inputs["retain", split], f"retain_{split}"
        if keep:
            kept[name] = compute_features(features, images, batch=batch, spill=spill)

        def chunks(images: Rows = images, name: str = name) -> Iterable[Tensor]:
            parts = [kept[name]] if keep else (part for _, part in iterate_features(features, images, batch))
            return (chunk for part in parts for chunk in _chunks(part))

        spreads[split] = _spread(chunks, objectives.distance)
    return kept, spreads


def _by_name(name: str, splits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}_{split}": array for split, array in splits.items()}


def _measure_scales(
    f1: Mapping[str, Tensor], spread: Mapping[str, float], floors: Mapping[str, float]
) -> Scales:
    """Return the scales of a run, of values by split."""
    return Scales(
        f1_floor=floors["train"],
        f1_original=float(f1["train"].double().mean()),
        variance_retain=spread["train"],
        f1_floor_heldout=floors["heldout"],
        f1_original_heldout=float(f1["heldout"].double().mean()),
        variance_retain_heldout=spread["heldout"],
    )


def _noise_target(rows: Float[Tensor, "k d"], distance: str) -> NoiseTarget:
    mean = _mean_of(_chunks(rows))
    return NoiseTarget(rows, mean.to(rows.dtype), _floor(rows, mean, distance))


def _floor(noise: Float[Tensor, "k d"], mean: Float[Tensor, " d"], distance: str) -> float:
    """Return the smallest f1 of any constant output.

    It is reached at the mean for squared errors, and at the geometric median for norms.
    """
    if distance == "mse":
        squares = [float((part.double() - mean).square().sum()) for part in _chunks(noise)]
        return sum(squares) / noise.numel()
    rows, centre = noise.double(), mean
    # Weiszfeld's iteration; it converges linearly and a hundred steps reach float accuracy.
    for _ in range(100):
        weights = 1.0 / (rows - centre).norm(dim=1).clamp(min=1e-12)
        centre = (weights[:, None] * rows).sum(dim=0) / weights.sum()
    return float((rows - centre).norm(dim=1).mean())


def _spread(chunks: Callable[[], Iterable[Float[Tensor, "n d"]]], distance: str) -> float:
    """Return the mean distance of outputs from their mean, which is the variance for squared errors.

    ``chunks`` is called twice.
    """
    mean = _mean_of(chunks())
    gaps = [distances(part.double(), mean, distance) for part in chunks()]
    return float(torch.cat(gaps).mean())


def _mean_of(chunks: Iterable[Float[Tensor, "n d"]]) -> Float[Tensor, " d"]:
    """Return the mean row in float64."""
    total: Tensor | float = 0.0
    count = 0
    for part in chunks:
        total, count = total + part.double().sum(dim=0), count + len(part)
    if not isinstance(total, Tensor):
        raise ValueError("expected at least one row, found none")
    return total / count


def _chunks(rows: Float[Tensor, "n d"]) -> Iterable[Float[Tensor, "m d"]]:
    return torch.split(rows, max(1, CHUNK_VALUES // rows.shape[1]))
