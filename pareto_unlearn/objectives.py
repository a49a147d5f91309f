"""The forget objective f1 and the retain objective f2, and the original model's outputs they compare with.

f1 is the distance of the model's outputs on forget images from the original model's outputs on noise; f2 is their distance
from the original's outputs on retain images (Algorithm 1, lines 5 and 6). Distances are means over images, so they do
not depend on the batch size. With squared errors, replacing the noise draws by their mean m is exact:
E||o - t||^2 = ||o - m||^2 + V, with V the variance of the targets. V is also the floor of f1.

Where the inputs hold draws that every step makes anew (Palette, the published training's masks), each input has its own
noise target: the original's output on the same input with noise in place of content. f1 is the distance from that, and its
floor what two noise targets of one input differ by: half their squared distance, nothing where noise draws nothing.

Where a reference model that never saw the forget images gives the targets, f1 is the distance from its outputs on the same
inputs, and its floor is zero.

What does not change is computed once a run, stored as plain arrays and opened memory-mapped by every trial.
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pareto_unlearn.config import ObjectiveSection
from pareto_unlearn.records import Scales

EVALUATION_BATCH = 256

ARRAYS = (
    "retain_train",
    "retain_heldout",
    "forget_f1_train",
    "forget_f1_heldout",
    "reference_train",
    "reference_heldout",
)

SPILL_BYTES = 2**28
"""Features of more bytes than this are kept in a file while they are computed."""

CHUNK_VALUES = 2**26
"""Values turned into float64 at a time."""

Features = Callable[[Tensor], Float[Tensor, "b d"]]
"""From model inputs to what f1 and f2 compare."""


@runtime_checkable
class Generative(Protocol):
    """The part of ``models.ImageToImage`` that features are taken from; the adapters live beside this module."""

    def encode(self, inputs: Tensor) -> Tensor:
        """Return the encoder's output."""
        ...

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the full output."""
        ...


@runtime_checkable
class Rows(Protocol):
    """Model inputs of a set of images, by number; a tensor is one."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, rows: Int[Tensor, " b"]) -> Tensor:
        """Return the inputs of some images."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class NoiseTarget:
    """The original model's outputs on noise: a bank of draws, their mean, and the smallest f1 they allow."""

    rows: Float[Tensor, "k d"]
    mean: Float[Tensor, " d"]
    floor: float


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


@dataclass(frozen=True, slots=True)
class Objectives:
    """f1 and f2 as functions of flat features, in the distance and with the noise target the sweep chose."""

    distance: str
    noise_target: str

    def forget_loss(
        self, features: Float[Tensor, "b d"], noise: NoiseTarget, draw: Int[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        """Return f1 of a mini-batch; ``draw`` picks a noise target for each image where targets are drawn."""
        if self.noise_target == "mean":
            return self.forget_per_image(features, noise).mean()
        return _distances(features, noise.rows[draw], self.distance).mean()

    def retain_loss(
        self, features: Float[Tensor, "b d"], original: Float[Tensor, "b d"]
    ) -> Float[Tensor, ""]:
        """Return f2 of a mini-batch against the original model's outputs on the same images."""
        return _distances(features, original, self.distance).mean()

    def forget_per_image(self, features: Float[Tensor, "n d"], noise: NoiseTarget) -> Float[Tensor, " n"]:
        """Return f1 of every image, exactly: its expectation over the whole noise bank."""
        if self.distance == "mse":
            return _distances(features, noise.mean, "mse") + noise.floor
        return torch.cdist(features, noise.rows).mean(dim=1)

    def retain_per_image(
        self, features: Float[Tensor, "n d"], original: Float[Tensor, "n d"]
    ) -> Float[Tensor, " n"]:
        """Return the distance of every image from its own target: f2, or f1 where each input has a target of its own."""
        return _distances(features, original, self.distance)


def build_objectives(config: ObjectiveSection) -> Objectives:
    """Return the objectives of a sweep file."""
    return Objectives(config.distance, str(config.noise_target))


def feature_function(model: Generative, space: str) -> Callable[[Tensor], Float[Tensor, "b d"]]:
    """Return the function from model inputs to the flat features f1 and f2 compare: output or encoder output."""
    inner: Callable[[Tensor], Tensor] = model.encode if space == "encoder" else model
    return lambda inputs: inner(inputs).flatten(1)


def compute_features(
    features: Features, inputs: Rows, *, batch: int = EVALUATION_BATCH, spill: Path | None = None
) -> Float[Tensor, "n d"]:
    """Return the features of many inputs, without gradients, in batches of a fixed size.

    Args:
        features: of a model.
        inputs: at least one.
        batch: how many at once.
        spill: folder for a nameless file that holds the result where it is large; None keeps it in memory.
    """
    result: Tensor | None = None
    for rows, part in iterate_features(features, inputs, batch):
        if result is None:
            result = _allocate(len(inputs), part, spill)
        result[rows] = part.to(result.device)
    if result is None:
        raise ValueError("expected at least one input, found none")
    return result


def iterate_features(
    features: Features, inputs: Rows, batch: int
) -> Iterator[tuple[Int[Tensor, " b"], Float[Tensor, "b d"]]]:
    """Yield the numbers of some inputs and their features, without gradients, batch by batch."""
    for rows in torch.split(torch.arange(len(inputs)), batch):
        with torch.no_grad():
            part = features(inputs[rows])
        yield rows, part


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
            parts.append(objectives.retain_per_image(part, target))
            gaps.append(objectives.retain_per_image(target, other))
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
    kept: dict[str, Tensor] = {}
    for split in ("train", "heldout"):
        images = inputs["forget", split]
        both = zip(
            iterate_features(features, images, batch),
            iterate_features(reference, images, batch),
            strict=True,
        )
        f1[split] = torch.cat([objectives.retain_per_image(part, wanted) for (_, part), (_, wanted) in both])
        if keep:
            kept[split] = compute_features(reference, images, batch=batch, spill=spill)
    retain, spread = _retain_targets(features, inputs, objectives, batch, spill, keep)
    targets = _assemble(None, f1, retain, spread, 0.0, 0.0)
    return replace(targets, reference_train=kept.get("train"), reference_heldout=kept.get("heldout"))


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


def open_targets(folder: Path, compute: Callable[[], Targets]) -> Targets:
    """Return the targets stored in ``folder``, computing and publishing them first where they are missing.

    Several trials may call this at once: one computes, the others wait for it. The folder appears in one rename, so a
    killed computation leaves nothing that looks complete.
    """
    with _exclusive(folder.with_name(folder.name + ".lock")):
        if not folder.is_dir():
            _publish(folder, compute())
    scales = Scales(**json.loads((folder / "scales.json").read_text()))
    rows, mean = (_open_array(folder / f"{name}.npy") for name in ("noise", "noise_mean"))
    noise = None if rows is None or mean is None else NoiseTarget(rows, mean, scales.f1_floor)
    arrays: dict[str, Any] = {name: _open_array(folder / f"{name}.npy") for name in ARRAYS}
    return Targets(noise=noise, scales=scales, **arrays)


def open_rows(path: Path, compute: Callable[[], Tensor]) -> Tensor:
    """Return an array stored as ``path``, memory-mapped, computing and publishing it first where it is missing."""
    with _exclusive(path.with_name(path.name + ".lock")):
        if not path.is_file():
            _publish_rows(path, compute())
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _publish(folder: Path, targets: Targets) -> None:
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        arrays = {name: getattr(targets, name) for name in ARRAYS}
        if targets.noise is not None:
            arrays |= {"noise": targets.noise.rows, "noise_mean": targets.noise.mean}
        for name, array in arrays.items():
            if array is not None:
                np.save(staging / f"{name}.npy", array.cpu().numpy())
        (staging / "scales.json").write_text(json.dumps(asdict(targets.scales)))
        os.replace(staging, folder)  # noqa: PTH105 - one rename publishes all
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish_rows(path: Path, rows: Tensor) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as staging:
        written = Path(staging) / path.name
        np.save(written, rows.cpu().numpy())
        os.replace(written, path)  # noqa: PTH105 - one rename publishes it


def _open_array(path: Path) -> Tensor | None:
    if not path.is_file():
        return None
    # Copy-on-write mapping: torch wants writable memory, and pages are shared as long as nobody writes.
    return torch.from_numpy(np.load(path, mmap_mode="c"))


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released by the kernel even when the process is killed
        yield


def _distances(
    outputs: Float[Tensor, "b d"], targets: Float[Tensor, "*b d"], distance: str
) -> Float[Tensor, " b"]:
    """Return one distance per row. The norm's gradient at zero distance is zero."""
    if distance == "mse":
        return (outputs - targets).square().mean(dim=1)
    return torch.linalg.vector_norm(outputs - targets, dim=1)  # type: ignore[no-any-return]


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
    distances = [_distances(part.double(), mean, distance) for part in chunks()]
    return float(torch.cat(distances).mean())


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


def _allocate(count: int, like: Float[Tensor, "b d"], spill: Path | None) -> Float[Tensor, "n d"]:
    """Return room for features: beside ``like``, or in a file without a name that goes with its last reader."""
    shape = (count, like.shape[1])
    if spill is None or count * like[0].nbytes < SPILL_BYTES:
        return like.new_empty(shape)
    with tempfile.TemporaryFile(dir=spill) as file:
        return torch.from_numpy(np.memmap(file, dtype=like.cpu().numpy().dtype, mode="w+", shape=shape))
