"""The targets of f1 and f2: what the original model says of noise and of the images, and how far its answers spread."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What the original model and the reference say, flat float32 rows, memory-mapped.

    ``retain_*`` are its outputs on the retain images in their order, ``forget_f1_*`` its f1 on every forget image. ``noise``
    is None where every input has its own target, ``retain_*`` where the original answers anew each time. ``reference_*`` are the
    outputs of a reference model on the forget images, None where there is none or it answers anew each time.
    """

    noise: NoiseTarget | None
    retain_train: Float[Tensor, "n d"] | None
    retain_heldout: Float[Tensor, "m d"] | None
    forget_f1_train: Float[Tensor, " a"]
    forget_f1_heldout: Float[Tensor, " b"]
    scales: Scales
    reference_train: Float[Tensor, "a d"] | None = None
    reference_heldout: Float[Tensor, "b d"] | None = None

    def reference(self, split: str) -> Float[Tensor, "n d"] | None:
        """Return the stored outputs of the reference model on the forget images of a split."""
        return self.reference_train if split == "train" else self.reference_heldout

    def to(self, device: torch.device) -> "Targets":
        """Return the targets for a device; outputs on images stay mapped to their files, since they may be large."""
        noise = self.noise
        if noise is not None:
            noise = NoiseTarget(noise.rows.to(device), noise.mean.to(device), noise.floor)
        f1 = {name: getattr(self, name).to(device) for name in ("forget_f1_train", "forget_f1_heldout")}
        return replace(self, noise=noise, **f1)


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
        batch: how many at once.
        spill: folder for what is too large for memory.
        keep_retain: keep the outputs on retain images; False where the original answers anew each time.
    """
    noise = _noise_target(compute_features(features, noise_inputs, batch=batch), objectives.distance)
    f1 = {
        split: torch.cat(
            [
                objectives.forget_per_image(part, noise)
                for _, part in iterate_features(features, inputs["forget", split], batch)
            ]
        )
        for split in ("train", "heldout")
    }
    retain, spread = _retain_targets(features, inputs, objectives, batch, spill, keep_retain)
    return _assemble(noise, f1, retain, spread, noise.floor, noise.floor)


def compute_paired_targets(
    features: Features,
    inputs: Mapping[tuple[str, str], Rows],
    noise: Mapping[str, tuple[Rows, Rows]],
    objectives: Objectives,
    *,
    batch: int = EVALUATION_BATCH,
) -> Targets:
    """Measure the original where each input has its own noise target; nothing but f1 and the scales is kept.

    Args:
        features: of the original model.
        inputs: model inputs keyed by (set, split).
        noise: by split, the noise inputs of the forget images, and once more with other draws.
        objectives: which distance is measured.
        batch: how many at once.
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
        # Of independent draws: E|t - t'|^2 = 2 V, and the norm of a difference is root two longer than that of one.
        floors[split] = float(torch.cat(gaps).double().mean()) / (
            2.0 if objectives.distance == "mse" else 2.0**0.5
        )
    retain, spread = _retain_targets(features, inputs, objectives, batch, None, keep=False)
    return _assemble(None, f1, retain, spread, floors["train"], floors["heldout"])


def compute_reference_targets(
    features: Features,
    reference: Features,
    inputs: Mapping[tuple[str, str], Rows],
    objectives: Objectives,
    *,
    batch: int = EVALUATION_BATCH,
    spill: Path | None = None,
    keep: bool = True,
) -> Targets:
    """Run a reference model over the forget images and the original over all of them.

    Args:
        features: of the original model.
        reference: of a model that never saw the forget images.
        inputs: model inputs keyed by (set, split).
        objectives: which distance is measured.
        batch: how many at once.
        spill: folder for what is too large for memory.
        keep: keep the outputs; False where both models answer anew each time.
    """
    f1: dict[str, Tensor] = {}
    kept: dict[str, Tensor | None] = {}
    for split in ("train", "heldout"):
        images = inputs["forget", split]
        answers = compute_features(reference, images, batch=batch, spill=spill) if keep else None
        parts = []
        for rows, part in iterate_features(features, images, batch):
            with torch.no_grad():
                wanted = reference(images[rows]) if answers is None else answers[rows].to(part.device)
            parts.append(objectives.paired_per_image(part, wanted))
        f1[split], kept[split] = torch.cat(parts), answers
    retain, spread = _retain_targets(features, inputs, objectives, batch, spill, keep)
    targets = _assemble(None, f1, retain, spread, 0.0, 0.0)
    return replace(targets, reference_train=kept["train"], reference_heldout=kept["heldout"])


def _retain_targets(
    features: Features,
    inputs: Mapping[tuple[str, str], Rows],
    objectives: Objectives,
    batch: int,
    spill: Path | None,
    keep: bool,
) -> tuple[dict[str, Tensor | None], dict[str, float]]:
    """Return the outputs on the retain images, where they are kept, and how far they spread."""
    outputs: dict[str, Tensor | None] = {"train": None, "heldout": None}
    spreads: dict[str, float] = {}
    for split in outputs:
        images = inputs["retain", split]
        if keep:
            outputs[split] = compute_features(features, images, batch=batch, spill=spill)
        rows = outputs[split]

        def chunks(images: Rows = images, rows: Tensor | None = rows) -> Iterable[Tensor]:
            parts = (
                (part for _, part in iterate_features(features, images, batch)) if rows is None else (rows,)
            )
            return (chunk for part in parts for chunk in _chunks(part))

        spreads[split] = _spread(chunks, objectives.distance)
    return outputs, spreads


def _assemble(
    noise: NoiseTarget | None,
    f1: Mapping[str, Tensor],
    retain: Mapping[str, Tensor | None],
    spread: Mapping[str, float],
    floor: float,
    floor_heldout: float,
) -> Targets:
    return Targets(
        noise=noise,
        retain_train=retain["train"],
        retain_heldout=retain["heldout"],
        forget_f1_train=f1["train"],
        forget_f1_heldout=f1["heldout"],
        scales=Scales(
            f1_floor=floor,
            f1_original=float(f1["train"].double().mean()),
            variance_retain=spread["train"],
            f1_floor_heldout=floor_heldout,
            f1_original_heldout=float(f1["heldout"].double().mean()),
            variance_retain_heldout=spread["heldout"],
        ),
    )


def _noise_target(rows: Float[Tensor, "k d"], distance: str) -> NoiseTarget:
    mean = _mean_of(_chunks(rows))
    return NoiseTarget(rows, mean.to(rows.dtype), _floor(rows, mean, distance))


def _floor(noise: Float[Tensor, "k d"], mean: Float[Tensor, " d"], distance: str) -> float:
    """Return the smallest f1 of any constant output: at the mean for squared errors, at the geometric median for norms."""
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
    """Return the mean distance of outputs from their mean: the variance for squared errors. They are asked for twice."""
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
