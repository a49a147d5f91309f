"""Masked autoencoders as a family: their variants, their files, and how a sweep file builds them."""

from dataclasses import replace
from pathlib import Path

from pareto_unlearn.models.baselines import PAPER
from pareto_unlearn.models.holes import build_hole
from pareto_unlearn.models.mae import (
    SMALL,
    TINY,
    VIT_BASE,
    VIT_HUGE,
    VIT_LARGE,
    Mae,
    Predicts,
    SmallMae,
    initialise,
)
from pareto_unlearn.models.mae_files import PUBLISHED, MaeFile, fill_mae, write_mae
from pareto_unlearn.models.mae_hub import write_hub_folder
from pareto_unlearn.models.protocol import Family, Setting
from pareto_unlearn.records import PixelFormat

SHAPES = {
    "vit_base": VIT_BASE,
    "vit_large": VIT_LARGE,
    "vit_huge": VIT_HUGE,
    "small": SMALL,
    "tiny": replace(TINY, side=56),
}
"""``tiny`` has the 14 x 14 patches of the published sizes, so that every hole fits both."""


def _pixels(variant: str) -> PixelFormat:
    return PixelFormat(side=SHAPES[variant].side, channels=3, fit="squash", resample="bicubic")


def _build(setting: Setting) -> Mae:
    usual, model = SHAPES[setting.model.variant], setting.model
    shape = replace(usual, side=model.side or usual.side, patch=model.patch or usual.patch)
    hole = build_hole(setting.task, shape.side, shape.patch, setting.seed)
    kind = SmallMae if setting.model.variant == "small" else Mae
    return kind(shape, hole, Predicts(setting.model.predicts), is_redrawn=setting.task.removal == "published")


def _load(setting: Setting, path: Path) -> tuple[Mae, MaeFile]:
    model = _build(setting)
    row, variant = setting.model.row, setting.model.variant
    file = fill_mae(model, path, resize=variant in row.resized and setting.model.side is not None)
    return model, replace(file, wrapper=file.wrapper.without_extras())


def _own_form(model: Mae) -> MaeFile:
    dtypes = {name: tensor.dtype for name, tensor in model.published_state().items()}
    return MaeFile(wrapper=PUBLISHED, dtypes=dtypes)


FAMILY = Family(
    pixels=_pixels,
    build=_build,
    initialise=initialise,
    load=_load,
    write=write_mae,
    own_form=_own_form,
    baselines=PAPER,
    hub=write_hub_folder,
)
