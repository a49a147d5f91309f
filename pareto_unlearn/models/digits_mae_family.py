"""The embedded digits model as a family: its file describes the network in its only metadata entry."""

import json
from pathlib import Path

import torch

from pareto_unlearn.errors import WeightsError
from pareto_unlearn.models.baselines import PAPER
from pareto_unlearn.models.checkpoint_files import (
    Wrapper,
    load_strictly,
    read_checkpoint,
    write_checkpoint,
)
from pareto_unlearn.models.digits_mae import DigitsMae, DigitsMaeShape, initialise
from pareto_unlearn.models.file_kinds import SAFETENSORS
from pareto_unlearn.models.holes import build_hole
from pareto_unlearn.models.protocol import DESCRIPTION, Family, Setting, describe_model
from pareto_unlearn.records import PixelFormat


def _pixels(_: str) -> PixelFormat:
    return PixelFormat(side=DigitsMaeShape().side, channels=1)


def _build(setting: Setting, shape: DigitsMaeShape | None = None) -> DigitsMae:
    shape = shape or DigitsMaeShape()
    return DigitsMae(shape, build_hole(setting.task, shape.side, shape.patch, setting.seed))


def _load(setting: Setting, path: Path) -> tuple[DigitsMae, Wrapper]:
    _require_safetensors(path)
    tensors, wrapper = read_checkpoint(path)
    model = _build(setting, _described_shape(wrapper, path))
    load_strictly(model, tensors, path, "weights of family digits_mae")
    return model, wrapper


def _described_shape(wrapper: Wrapper, path: Path) -> DigitsMaeShape:
    text = wrapper.metadata.get(DESCRIPTION, "{}")
    try:
        description = json.loads(text)
        found = description.get("family", "no family")
        if found == DigitsMae.family:
            return DigitsMaeShape(**description["shape"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: the description of the network is damaged: {text[:200]!r}") from error
    raise WeightsError(f"{path}: expected weights of family {DigitsMae.family}, found {found}")


def _require_safetensors(path: Path) -> None:
    """Refuse other files: they have no place for the description of the network."""
    if path.suffix != SAFETENSORS:
        raise WeightsError(
            f"{path}: expected a {SAFETENSORS} file written by this package, found one of another kind"
        )


def _write(path: Path, model: DigitsMae, wrapper: Wrapper) -> None:
    _require_safetensors(path)
    write_checkpoint(path, model.state_dict(), wrapper)


def _own_form(model: DigitsMae) -> Wrapper:
    return Wrapper(metadata=describe_model(model))


def _initialise(model: DigitsMae, generator: torch.Generator) -> None:
    initialise(model, generator)


FAMILY = Family(
    pixels=_pixels,
    build=_build,
    initialise=_initialise,
    load=_load,
    write=_write,
    own_form=_own_form,
    baselines=PAPER,
    suffix=SAFETENSORS,
)
