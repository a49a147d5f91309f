"""Files of masked autoencoders: the published form, that of transformers, and positions of another size."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from pareto_unlearn.errors import WeightsError
from pareto_unlearn.models.checkpoint_files import (
    Wrapper,
    exported_dtype,
    load_strictly,
    read_checkpoint,
    write_checkpoint,
)
from pareto_unlearn.models.mae import VIT_BASE, VIT_HUGE, VIT_LARGE, Mae, MaeShape, Predicts
from pareto_unlearn.models.mae_patches import grid_of, resize_positions
from pareto_unlearn.models.mae_transformers import (
    has_transformers_names,
    published_names,
    transformers_tensor,
)

PUBLISHED = Wrapper("model")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaeFile:
    """The form of a file: its wrapper, and the types of its tensors by name, in its order.

    ``positions`` are those of the file, by the published names, where the model has others for another side.
    """

    wrapper: Wrapper
    dtypes: Mapping[str, torch.dtype]
    positions: Mapping[str, Tensor] = field(default_factory=dict)


def fill_mae(model: Mae, path: Path, *, resize: bool = False) -> MaeFile:
    """Load a file into a model; return the form of the file.

    Args:
        model: The network.
        path: The file.
        resize: Interpolate the file's positions where the model has another number of patches. Those of the
            same number are taken as they are, to the bit.

    Raises:
        WeightsError: the file is missing, damaged, refused, or does not fit the model.
    """
    # Training runs of the published code pickle their arguments beside the weights.
    stored, wrapper = read_checkpoint(path, allowed=(argparse.Namespace,))
    _require_prediction(model.predicts, wrapper, path)
    tensors = published_names(stored) if has_transformers_names(stored) else stored
    others = _other_positions(tensors, model)
    if others and not resize:
        grid = grid_of(next(iter(others.values())))
        raise WeightsError(
            f"{path}: expected positions of {model.shape.side // model.shape.patch} patches along a side, "
            f"found {grid}: its images had {grid * model.shape.patch} pixels; set model.side to that"
        )
    side = model.shape.side // model.shape.patch
    resized = {name: resize_positions(places, side) for name, places in others.items()}
    load_strictly(model, tensors | resized, path, _expected(model.shape, model.predicts))
    dtypes = {name: exported_dtype(tensor.dtype) for name, tensor in stored.items()}
    return MaeFile(wrapper=wrapper, dtypes=dtypes, positions=others)


def _other_positions(tensors: Mapping[str, Tensor], model: Mae) -> dict[str, Tensor]:
    """Return the positions of a file that are those of another, square number of patches."""
    named = {name: tensors[name] for name in ("pos_embed", "decoder_pos_embed") if name in tensors}
    own = model.state_dict()
    return {
        name: places
        for name, places in named.items()
        if places.ndim == 3
        and grid_of(places)
        and places.shape[2] == own[name].shape[2]
        and places.shape[1] != own[name].shape[1]
    }


def _require_prediction(predicts: Predicts, wrapper: Wrapper, path: Path) -> None:
    """Refuse a file whose own arguments say that it was trained to predict something else."""
    trained = getattr((wrapper.before | wrapper.after).get("args"), "norm_pix_loss", None)
    wanted = Predicts.NORMALISED_PATCHES if trained else Predicts.PIXELS
    if trained is not None and wanted is not predicts:
        raise WeightsError(
            f"{path}: its arguments say norm_pix_loss={trained}, so it predicts {wanted}; expected a file "
            f"that predicts {predicts}: set model.predicts to {wanted}"
        )


def write_mae(path: Path, model: Mae, file: MaeFile | None = None) -> None:
    """Write the weights in the form of a file that was read; None: as the published code reads them.

    The positions of a file that was read stay its own: they are constants, so whatever reads that file reads
    this one, and here they are interpolated again.
    """
    state = model.published_state()
    if file is not None:
        state |= file.positions
        theirs = has_transformers_names(file.dtypes)
        named = {name: transformers_tensor(state, name) if theirs else state[name] for name in file.dtypes}
        state = {name: tensor.to(file.dtypes[name]) for name, tensor in named.items()}
    write_checkpoint(path, state, PUBLISHED if file is None else file.wrapper)


def _expected(shape: MaeShape, predicts: Predicts) -> str:
    names = {VIT_BASE: "vit_base", VIT_LARGE: "vit_large", VIT_HUGE: "vit_huge"}
    if (name := names.get(replace(shape, side=VIT_BASE.side))) is None:
        return f"weights of {shape}, as `pareto-unlearn train` writes them"
    if predicts is Predicts.NORMALISED_PATCHES:
        return f"mae_pretrain_{name}_full.pth (mae_pretrain_{name}.pth has no decoder)"
    return f"mae_visualize_{name}.pth (mae_pretrain_{name}.pth has no decoder)"
