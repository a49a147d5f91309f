"""The audit of a trial's model: which images it looks at, and how they are given to the model."""

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pareto_unlearn.audit import Photos, Subject, audit_full, audit_quick
from pareto_unlearn.catalogue.audits import BYSTANDERS, OTHER_HOLES
from pareto_unlearn.config import SweepConfig
from pareto_unlearn.data import ImageSet, load_bystanders
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models import ImageToImage, pixel_format, with_other_hole
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.records import MetricRow
from pareto_unlearn.trial.bank import spread_rows
from pareto_unlearn.trial.context import Material
from pareto_unlearn.trial.inputs import SETS, Rows, generators_of
from pareto_unlearn.trial.loading import load_original

MOST_IMAGES = {"train": 512, "heldout": 256}
"""Images of each set that an audit looks at."""
_OTHER_TASKS: tuple[Mapping[str, object], ...] = (
    {"kind": "center", "size": 0.25},
    {"kind": "center", "size": 0.75},
    {"kind": "outpaint", "size": 0.5},
    {"kind": "up", "size": 0.5},
    {"kind": "down", "size": 0.5},
    {"kind": "left", "size": 0.5},
    {"kind": "right", "size": 0.5},
    {"kind": "random", "size": 0.25},
    {"kind": "random", "size": 0.5},
    {"kind": "random", "size": 0.75},
)
"""The tasks of ``OTHER_HOLES``, in that order."""
MOST_DRAWN = 16
"""The same of each set, where every picture takes many passes."""
MOST_BYSTANDERS = 128
"""Images of classes that are neither forgotten nor kept."""
_PLACES = {**SETS, BYSTANDERS: len(SETS)}
"""Keeps the draws about images of different sets apart."""


def audit_rows(config: SweepConfig, material: Material) -> list[MetricRow]:
    """Return the rows of the audit that the sweep asks for, of the model as it stands."""
    if config.evaluate.audit == "off":
        return []
    subject = audit_subject(config, material)
    rows = audit_quick(subject)
    if config.evaluate.audit == "full":
        rows += audit_full(subject, load_original(config, material.device))
    return rows


def audit_subject(config: SweepConfig, material: Material) -> Subject:
    """Return the model as it stands with images spread evenly over each of its four sets."""
    encoder = {id(parameter) for parameter in material.trainable("encoder")}
    names = (name for name, parameter in material.model.named_parameters() if id(parameter) in encoder)
    photos = {key: _photos(material, key) for key in SETS}
    most = MOST_DRAWN if material.model.is_redrawn else MOST_BYSTANDERS
    bystanders = load_bystanders(config.data, config.seed, pixel_format(config.model), most)
    if bystanders is not None:
        photos[BYSTANDERS] = _photos_of(material, BYSTANDERS, bystanders)
    return Subject(material.model, photos, tuple(names), partial(_other_holes, config, material))


def _other_holes(config: SweepConfig, material: Material) -> Iterator[tuple[str, ImageToImage]]:
    """Yield what the model is asked with another hole; a hole that it cannot have is left out."""
    for name, task in zip(OTHER_HOLES, _OTHER_TASKS, strict=True):
        asked = config.task.model_copy(update={"patches": None, **task})
        try:
            model = with_other_hole(
                material.model, config.model, asked, sampling=config.evaluate.sampling, seed=config.seed
            )
        except ConfigError:
            continue
        if not torch.equal(model.removed_pixels(), material.model.removed_pixels()):
            yield name, model


def _photos(material: Material, key: tuple[str, str]) -> Photos:
    """Return images of one of the sweep's sets; their inputs are those of the sweep."""
    name, split = key
    most = MOST_DRAWN if material.model.is_redrawn else MOST_IMAGES[split]
    images = getattr(material.split, f"{name}_{split}")
    return _photos_of(material, key, images, material.inputs[key], most)


def _photos_of(
    material: Material, key: tuple[str, str], images: ImageSet, stored: Rows | None = None, most: int = 0
) -> Photos:
    """Return images, spread evenly if ``most`` are fewer, with stored inputs or such as are made here."""
    place = _PLACES[key]
    numbers = spread_rows(len(images), most or len(images))
    pixels = images.images[numbers].to(material.device)
    if stored is None:
        inputs = material.model.prepare(pixels, generators_of(material.seed, Stream.INPUTS, numbers, place))
    else:
        inputs = stored[numbers]

    def generate(
        model: ImageToImage, rows: Int[Tensor, " k"], shown: Float[Tensor, "k c h w"]
    ) -> Float[Tensor, "k c h w"]:
        draws = generators_of(material.seed, Stream.GENERATION, numbers[rows], place)
        batch = model.evaluation_batch
        starts = range(0, len(rows), batch)
        return torch.cat([model.generate(shown[at : at + batch], draws[at : at + batch]) for at in starts])

    def redraw(rows: Int[Tensor, " k"], draw: int) -> Tensor:
        chosen = inputs[rows]
        if not material.model.is_redrawn:
            return chosen
        return material.model.redraw(
            chosen, generators_of(material.seed, Stream.AUDIT_DRAWS, numbers[rows], place, draw)
        )

    ids = tuple(images.image_ids[number] for number in numbers.tolist())
    return Photos(ids, pixels, inputs, images.class_ids[numbers], generate, redraw)
