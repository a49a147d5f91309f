"""The forget objective f1 and the retain objective f2, and the original model's outputs they compare with.

f1 is the distance of the model's outputs on forget images from the original model's outputs on noise; f2 is their distance
from the original's outputs on retain images (Algorithm 1, lines 5 and 6). Distances are means over images, so they do
not depend on the batch size. With squared errors, replacing the noise draws by their mean m is exact:
E||o - t||^2 = ||o - m||^2 + V, with V the variance of the targets. V is also the floor of f1.

The targets are computed once a run, stored as plain arrays and opened memory-mapped by every trial.
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pareto_unlearn.config import ObjectiveSection
from pareto_unlearn.records import Scales

EVALUATION_BATCH = 256

ARRAYS = ("retain_train", "retain_heldout", "forget_f1_train", "forget_f1_heldout")


@runtime_checkable
class Generative(Protocol):
    """The part of ``models.ImageToImage`` that features are taken from; the adapters live beside this module."""

    def encode(self, inputs: Tensor) -> Tensor:
        """Return the encoder's output."""
        ...

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the full output."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class NoiseTarget:
    """The original model's outputs on noise: a bank of draws, their mean, and the smallest f1 they allow."""

    rows: Float[Tensor, "k d"]
    mean: Float[Tensor, " d"]
    floor: float


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What the original model says, flat float32 rows, memory-mapped.

    ``retain_*`` are its outputs on the retain images in their order, ``forget_f1_*`` its f1 on every forget image.
    """

    noise: NoiseTarget
    retain_train: Float[Tensor, "n d"]
    retain_heldout: Float[Tensor, "m d"]
    forget_f1_train: Float[Tensor, " a"]
    forget_f1_heldout: Float[Tensor, " b"]
    scales: Scales

    def to(self, device: torch.device) -> "Targets":
        """Return the targets on a device; on the CPU they stay mapped to their files."""
        noise = NoiseTarget(self.noise.rows.to(device), self.noise.mean.to(device), self.noise.floor)
        arrays = {name: getattr(self, name).to(device) for name in ARRAYS}
        return Targets(noise=noise, scales=self.scales, **arrays)


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
        """Return f2 of every image."""
        return _distances(features, original, self.distance)


def build_objectives(config: ObjectiveSection) -> Objectives:
    """Return the objectives of a sweep file."""
    return Objectives(config.distance, str(config.noise_target))


def feature_function(model: Generative, space: str) -> Callable[[Tensor], Float[Tensor, "b d"]]:
    """Return the function from model inputs to the flat features f1 and f2 compare: output or encoder output."""
    inner: Callable[[Tensor], Tensor] = model.encode if space == "encoder" else model
    return lambda inputs: inner(inputs).flatten(1)


def compute_features(
    features: Callable[[Tensor], Float[Tensor, "b d"]], inputs: Tensor
) -> Float[Tensor, "n d"]:
    """Return the features of many inputs, without gradients, in batches of a fixed size."""
    with torch.no_grad():
        return torch.cat([features(part) for part in torch.split(inputs, EVALUATION_BATCH)])


def compute_targets(
    features: Callable[[Tensor], Float[Tensor, "b d"]],
    inputs: dict[tuple[str, str], Tensor],
    noise_inputs: Tensor,
    objectives: Objectives,
) -> Targets:
    """Run the original model over the noise bank and all image sets.

    Args:
        features: of the original model.
        inputs: model inputs keyed by (set, split).
        noise_inputs: the noise bank x_n, already drawn.
        objectives: which distance the scales are measured in.
    """
    outputs = {key: compute_features(features, value) for key, value in inputs.items()}
    rows = compute_features(features, noise_inputs)
    mean = rows.double().mean(dim=0)
    noise = NoiseTarget(rows, mean.to(rows.dtype), _floor(rows, mean, objectives.distance))
    forget_train, forget_heldout = (
        objectives.forget_per_image(outputs["forget", split], noise) for split in ("train", "heldout")
    )
    return Targets(
        noise=noise,
        retain_train=outputs["retain", "train"],
        retain_heldout=outputs["retain", "heldout"],
        forget_f1_train=forget_train,
        forget_f1_heldout=forget_heldout,
        scales=Scales(
            f1_floor=noise.floor,
            f1_original=float(forget_train.double().mean()),
            variance_retain=_spread(outputs["retain", "train"], objectives.distance),
            f1_floor_heldout=noise.floor,
            f1_original_heldout=float(forget_heldout.double().mean()),
            variance_retain_heldout=_spread(outputs["retain", "heldout"], objectives.distance),
        ),
    )


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
    arrays = {name: _open_array(folder / f"{name}.npy") for name in ARRAYS}
    return Targets(noise=NoiseTarget(rows, mean, scales.f1_floor), scales=scales, **arrays)


def _publish(folder: Path, targets: Targets) -> None:
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        arrays = {name: getattr(targets, name) for name in ARRAYS}
        for name, array in (arrays | {"noise": targets.noise.rows, "noise_mean": targets.noise.mean}).items():
            np.save(staging / f"{name}.npy", array.cpu().numpy())
        (staging / "scales.json").write_text(json.dumps(asdict(targets.scales)))
        os.replace(staging, folder)  # noqa: PTH105 - one rename publishes all
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _open_array(path: Path) -> Tensor:
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
    rows = noise.double()
    if distance == "mse":
        return float((rows - mean).square().mean())
    centre = mean
    # Weiszfeld's iteration; it converges linearly and a hundred steps reach float accuracy.
    for _ in range(100):
        weights = 1.0 / (rows - centre).norm(dim=1).clamp(min=1e-12)
        centre = (weights[:, None] * rows).sum(dim=0) / weights.sum()
    return float((rows - centre).norm(dim=1).mean())


def _spread(outputs: Float[Tensor, "n d"], distance: str) -> float:
    """Return the distance of the outputs from their mean: the variance for squared errors."""
    rows = outputs.double()
    return float(_distances(rows, rows.mean(dim=0), distance).mean())
