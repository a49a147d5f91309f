"""Every family of models at its smallest size, with random weights, and images for it to read."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from small_sweep import QUICKSTART
from torch import Tensor

from pareto_unlearn.catalogue import families as rows
from pareto_unlearn.config import (
    DataSection,
    ModelSection,
    SamplingSection,
    SweepConfig,
    TaskSection,
    load_config,
)
from pareto_unlearn.data import ImageSet, SplitData
from pareto_unlearn.models import ImageToImage, load_model, pixel_format
from pareto_unlearn.models.mage_generation import soft_hole
from pareto_unlearn.trial import Material, load_material

FAMILIES = tuple(row.name for row in rows.FAMILIES)
PUBLISHED = ("mae", "mage", "palette")
"""The families whose published training draws what it removes."""
SPACES = ("output", "encoder")
PATCHES = {"digits_mae": 2, "mae": 8, "mage": 8, "palette": 8}
"""Side of the usual hole in patches: half the side, or as near as a grid of 14 comes."""

SAMPLING = SamplingSection(method="ddim", steps=3)
"""Three steps in place of 2000."""

COUNTS = {"forget_train": 5, "forget_heldout": 3, "retain_train": 7, "retain_heldout": 4}


def section(family: str, **changes: object) -> ModelSection:
    """Return the model section of a family at its smallest."""
    own = {"checkpoint": "builtin"} if family == "digits_mae" else {"variant": "tiny", "checkpoint": "random"}
    return ModelSection(**{"family": family, **own, **changes})


def build(family: str, task: TaskSection | None = None, **changes: object) -> ImageToImage:
    """Return a fresh model of a family, with the usual hole unless told otherwise."""
    task = task or TaskSection(patches=PATCHES[family])
    return load_model(section(family, **changes), task, sampling=SAMPLING)


def build_published(family: str, **changes: object) -> ImageToImage:
    """Return a fresh model whose inputs have what the published training removes."""
    return build(family, TaskSection(patches=PATCHES[family], removal="published"), **changes)


ALL = [(family, build) for family in FAMILIES] + [(family, build_published) for family in PUBLISHED]
"""Every family with the usual hole, and with what the published training removes."""


def seeds(*numbers: int) -> list[torch.Generator]:
    """Return a generator for each number."""
    return [torch.Generator().manual_seed(number) for number in numbers]


def pictures(family: str, count: int = 3, seed: int = 0) -> Tensor:
    """Return smooth colour fields with some noise in the format of a family, [0, 1]."""
    pixels = pixel_format(section(family))
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, pixels.channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(pixels.side, pixels.side), mode="bilinear")
    noise = torch.rand(smooth.shape, generator=generator)
    return 0.8 * smooth + 0.2 * noise


def decode(model: ImageToImage, inputs: Tensor, features: object) -> Tensor:
    """Run the decoder on encoder outputs: rows of tokens, or the maps of ``palette``."""
    match model.family:
        case "digits_mae":
            return model.decode(features)
        case "mae":
            return model.decode_masked(features, model.masking_of(inputs))
        case "mage":
            hidden = model.decode(features, model._masks_of(inputs))
            return model.predict(hidden, model.shape.tokenizer.codes)[:, 1:]
    *skipped, hidden = features
    unet = model.denoise_fn
    level = unet._embed(inputs[:, 10, :1, 0])
    for stage in unet.output_blocks:
        hidden = unet._run(stage, torch.cat([hidden, skipped.pop()], dim=1), level)
    return unet.out(hidden)


def encoder_outputs(model: ImageToImage, inputs: Tensor) -> object:
    """Return what the decoder is given."""
    return model.feature_maps(inputs) if model.family == "palette" else model.encode(inputs)


def soft_share(model: ImageToImage) -> Tensor:
    """Return the share of generated pixels: 1 in the hole, 0 outside, values between them only for mage."""
    if model.family == "mage":
        return soft_hole(model.hole)
    return model.removed_pixels().float()


def make_split(family: str, counts: dict[str, int] | None = None) -> SplitData:
    """Return generated images as a split of two forget and two retain classes."""
    sets = {}
    for seed, (name, count) in enumerate((counts or COUNTS).items()):
        images, kind = pictures(family, count, 100 + seed), name.split("_", maxsplit=1)[0]
        sets[name] = ImageSet(
            images=images,
            class_ids=torch.arange(count) % 2,
            class_names=(f"{kind}-a", f"{kind}-b"),
            image_ids=tuple(f"{name}-{index}" for index in range(count)),
            sha256=tuple(hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images),
        )
    return SplitData(**sets)


def configure(family: str, *overrides: str) -> SweepConfig:
    """Return a sweep of a few steps on a family."""
    own = "builtin" if family == "digits_mae" else "random"
    sampling = ["evaluate.sampling={method: ddim, steps: 3}"] if family == "palette" else []
    return load_config(
        QUICKSTART,
        [
            "smoke=true",
            f"model={{family: {family}, checkpoint: {own}{'' if own == 'builtin' else ', variant: tiny'}}}",
            f"task={{kind: center, patches: {PATCHES[family]}}}",
            "objective={noise_images: 16}",
            "solver={steps: 3, batch: 2, start: original, checkpoint_every: 2}",
            "evaluate={metrics: [mse, psnr]}",
            *sampling,
            *overrides,
        ],
    )


Load = Callable[..., tuple[SweepConfig, Material]]


def load_on_generated(
    family: str, cache: Path, *overrides: str, counts: dict[str, int] | None = None
) -> tuple[SweepConfig, Material]:
    """Return a sweep and its material on generated images; ``cache`` must be new for every call."""
    import pareto_unlearn.trial.loading as home

    config, own = configure(family, *overrides), home.load_split
    home.load_split = lambda *_: make_split(family, counts)
    try:
        material = load_material(config, cache, "families")
    finally:
        home.load_split = own
    data = {"dataset": "generated", "forget_classes": 2, "retain_classes": 2, "heldout_per_class": 1}
    made = config.model_copy(update={"data": DataSection(**data)})
    return made, replace(material, classifier=None)


def moved(material: Material, share: float = 0.05) -> None:
    """Change all trained weights by a few percent: at the original, f2 and its gradient are 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in material.model.parameters():
            if parameter.requires_grad:
                scale = share * float(parameter.abs().mean() + 0.01)
                parameter += scale * torch.randn(parameter.shape, generator=generator)


def relative(one: Tensor, other: Tensor) -> float:
    """Return how far apart two tensors are, relative to the second."""
    return float((one - other).norm() / other.norm().clamp(min=math.ulp(1.0)))
