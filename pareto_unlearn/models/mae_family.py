"""Masked autoencoders as a family: their variants, their files, and what a sweep file says of them."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from pareto_unlearn.models.checkpoint_files import Wrapper
from pareto_unlearn.models.holes import build_hole
from pareto_unlearn.models.mae import (
    PUBLISHED,
    TINY,
    VIT_BASE,
    VIT_LARGE,
    Mae,
    MaeShape,
    Predicts,
    initialise,
    load_mae,
    write_mae,
)
from pareto_unlearn.models.protocol import Family, Setting
from pareto_unlearn.records import PixelFormat

SHAPES = {"vit_base": VIT_BASE, "vit_large": VIT_LARGE, "tiny": replace(TINY, side=56)}
"""``tiny`` has the 14 x 14 patches of the published sizes, so that every hole fits both."""


def _pixels(variant: str) -> PixelFormat:
    return PixelFormat(side=SHAPES[variant].side, channels=3, fit="squash", resample="bicubic")


def _build(setting: Setting) -> Mae:
    shape, hole, predicts, is_redrawn = _parts(setting)
    return Mae(shape, hole, predicts, is_redrawn=is_redrawn)


def _load(setting: Setting, path: Path) -> tuple[Mae, Wrapper]:
    shape, hole, predicts, is_redrawn = _parts(setting)
    model, wrapper = load_mae(path, shape, hole, predicts, is_redrawn=is_redrawn)
    return model, wrapper.without_extras()


def _parts(setting: Setting) -> tuple[MaeShape, Tensor, Predicts, bool]:
    shape = SHAPES[setting.model.variant]
    hole = build_hole(setting.task, shape.side, shape.patch, setting.seed)
    return shape, hole, Predicts(setting.model.predicts), setting.task.removal == "published"


def _write(path: Path, model: Mae, wrapper: Wrapper) -> None:
    write_mae(path, model, wrapper)


def _own_form(_: Mae) -> Wrapper:
    return PUBLISHED


FAMILY = Family(
    pixels=_pixels, build=_build, initialise=initialise, load=_load, write=_write, own_form=_own_form
)
