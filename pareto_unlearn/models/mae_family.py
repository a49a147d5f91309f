"""Masked autoencoders as a family: their variants, their files, and how a sweep file builds them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pareto_unlearn.models.baselines import PAPER
from pareto_unlearn.models.checkpoint_files import Wrapper
from pareto_unlearn.models.holes import build_hole
from pareto_unlearn.models.mae import (
    PUBLISHED,
    SMALL,
    TINY,
    VIT_BASE,
    VIT_LARGE,
    Mae,
    Predicts,
    SmallMae,
    fill_mae,
    initialise,
    write_mae,
)
from pareto_unlearn.models.mae_hub import write_hub_folder
from pareto_unlearn.models.protocol import Family, Setting
from pareto_unlearn.records import PixelFormat

SHAPES = {"vit_base": VIT_BASE, "vit_large": VIT_LARGE, "small": SMALL, "tiny": replace(TINY, side=56)}
"""``tiny`` has the 14 x 14 patches of the published sizes, so that every hole fits both."""


@dataclass(frozen=True, slots=True)
class MaeFile:
    """The form of a file: its wrapper, and the types of its tensors by name, in its order."""

    wrapper: Wrapper
    dtypes: Mapping[str, torch.dtype]


def _pixels(variant: str) -> PixelFormat:
    return PixelFormat(side=SHAPES[variant].side, channels=3, fit="squash", resample="bicubic")


def _build(setting: Setting) -> Mae:
    shape, side, patch = SHAPES[setting.model.variant], setting.model.side, setting.model.patch
    if side is not None and patch is not None:
        shape = replace(shape, side=side, patch=patch)
    hole = build_hole(setting.task, shape.side, shape.patch, setting.seed)
    kind = SmallMae if setting.model.variant == "small" else Mae
    return kind(shape, hole, Predicts(setting.model.predicts), is_redrawn=setting.task.removal == "published")


def _load(setting: Setting, path: Path) -> tuple[Mae, MaeFile]:
    model = _build(setting)
    wrapper, dtypes = fill_mae(model, path)
    return model, MaeFile(wrapper.without_extras(), dtypes)


def _write(path: Path, model: Mae, file: MaeFile) -> None:
    write_mae(path, model, file.wrapper, file.dtypes)


def _own_form(model: Mae) -> MaeFile:
    return MaeFile(PUBLISHED, {name: tensor.dtype for name, tensor in model.published_state().items()})


FAMILY = Family(
    pixels=_pixels,
    build=_build,
    initialise=initialise,
    load=_load,
    write=_write,
    own_form=_own_form,
    baselines=PAPER,
    hub=write_hub_folder,
)
