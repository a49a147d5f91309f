"""Palette as a family: its variants, its files, and how a sweep file builds it."""

from dataclasses import replace
from pathlib import Path

from pareto_unlearn.models.checkpoint_files import Wrapper
from pareto_unlearn.models.holes import build_hole
from pareto_unlearn.models.initialisation import fill_weights
from pareto_unlearn.models.palette import PLACES2, TINY, Palette
from pareto_unlearn.models.palette_baselines import BASELINES
from pareto_unlearn.models.palette_files import PaletteFile, fill_palette, save_palette
from pareto_unlearn.models.palette_sampling import Method, Sampling
from pareto_unlearn.models.palette_schedule import UPSTREAM_TEST, respace_schedule
from pareto_unlearn.models.protocol import Family, Setting
from pareto_unlearn.records import PixelFormat

SHAPES = {"places2": PLACES2, "tiny": replace(TINY, unet=replace(TINY.unet, side=32))}

PATCH = 16
"""Patches along the side by which a hole of ``patches`` is measured, as in the other families."""


def _pixels(variant: str) -> PixelFormat:
    return PixelFormat(side=SHAPES[variant].unet.side, channels=3, fit="squash", resample="bilinear")


def _build(setting: Setting) -> Palette:
    shape, sampling = SHAPES[setting.model.variant], setting.sampling
    side = shape.unet.side
    model = Palette(
        shape,
        build_hole(setting.task, side, side // PATCH, setting.seed, whole=False),
        recompute=setting.model.recompute,
        hybrid=setting.task.removal == "published",
        sampling=Sampling(method=Method(sampling.method), steps=sampling.steps),
        schedule=UPSTREAM_TEST if sampling.schedule == "upstream_test" else None,
    )
    model.denoise_fn.channels_last = setting.model.channels_last
    return model


def _load(setting: Setting, path: Path) -> tuple[Palette, PaletteFile]:
    model = _build(setting)
    follows = setting.model.schedule == "file"
    file = fill_palette(model, path, own_schedule=follows)
    if follows and setting.sampling.steps is not None and setting.sampling.schedule == "training":
        respace_schedule(model.training_schedule(), setting.sampling.steps)  # raises where it has fewer
    return model, replace(file, wrapper=file.wrapper.without_extras())


def _own_form(model: Palette) -> PaletteFile:
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    return PaletteFile(Wrapper(), dtypes, ())


FAMILY = Family(
    pixels=_pixels,
    build=_build,
    initialise=fill_weights,
    load=_load,
    write=save_palette,
    own_form=_own_form,
    baselines=BASELINES,
)
