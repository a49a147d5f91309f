"""MAGE as a family: its variants, its files, and how a sweep file builds it."""

from dataclasses import replace
from pathlib import Path

from pareto_unlearn.models.checkpoint_files import Wrapper
from pareto_unlearn.models.holes import build_hole
from pareto_unlearn.models.initialisation import fill_weights
from pareto_unlearn.models.mage import TINY, VIT_BASE, VIT_LARGE, Mage
from pareto_unlearn.models.mage_baselines import BASELINES
from pareto_unlearn.models.mage_checkpoints import MageFiles, StoredForm, load_mage, write_mage_checkpoint
from pareto_unlearn.models.protocol import Family, Setting
from pareto_unlearn.records import PixelFormat

SHAPES = {"vit_base": VIT_BASE, "vit_large": VIT_LARGE, "tiny": TINY}


def _pixels(variant: str) -> PixelFormat:
    return PixelFormat(side=SHAPES[variant].side, channels=3, fit="crop", resample="bicubic")


def _build(setting: Setting) -> Mage:
    shape = SHAPES[setting.model.variant]
    hole = build_hole(setting.task, shape.side, shape.tokenizer.patch, setting.seed)
    model = Mage(shape, hole, is_redrawn=setting.task.removal == "published")
    model.vqgan.channels_last = setting.model.channels_last
    return model


def _load(setting: Setting, path: Path) -> tuple[Mage, MageFiles]:
    model, tokenizer = _build(setting), setting.model.tokenizer
    files = load_mage(model, path, None if tokenizer is None else Path(tokenizer).expanduser())
    # The optimiser, epoch and arguments of a training are not those of the weights that are written.
    return model, replace(files, mage=replace(files.mage, wrapper=files.mage.wrapper.without_extras()))


def _own_form(model: Mage) -> MageFiles:
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    return MageFiles(StoredForm(Wrapper("model"), dtypes))


def _write(path: Path, model: Mage, files: MageFiles) -> None:
    write_mage_checkpoint(path, model.state_dict(), files)


FAMILY = Family(
    pixels=_pixels,
    build=_build,
    initialise=fill_weights,
    load=_load,
    write=_write,
    own_form=_own_form,
    baselines=BASELINES,
)
