"""Published files of Palette: ``16_Network.pth``, its averaged twin, and files of published unlearning.

All are plain state dicts. They differ in what lies beside the network: the schedule of the training (absent
from averaged weights, ``*_Network_ema.pth``) and a second network, the original one (in unlearned files
only).
"""

from collections.abc import Mapping
from dataclasses import dataclass
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
from pareto_unlearn.models.palette import Palette
from pareto_unlearn.models.palette_schedule import SCHEDULE_NAMES, build_schedule

ORIGINAL_PREFIX = "teacher_denoise_fn."
"""Of the original network that unlearned files carry along. It is never read."""

ROUNDED = 0.01
"""Relative; half precision keeps eight bits, so that a level is off by up to .004."""

EXPECTED = "16_Network.pth, 16_Network_ema.pth, or a file unlearned from them"


@dataclass(frozen=True, slots=True)
class PaletteFile:
    """What a file holds beside weights, so that others can be written in the same form.

    ``dtypes`` names the tensors of the model in the order of the file.
    """

    wrapper: Wrapper
    dtypes: Mapping[str, torch.dtype]
    dropped: tuple[str, ...]

    @property
    def has_schedule(self) -> bool:
        """Whether the file tells the schedule of its training; averaged weights do not."""
        return any(name in self.dtypes for name in SCHEDULE_NAMES)


def read_palette(path: Path) -> tuple[dict[str, Tensor], PaletteFile]:
    """Read the tensors of one network, and what else there is to know about the file.

    Raises:
        WeightsError: the file is missing, damaged, refused, or holds no tensors of a network.
    """
    tensors, wrapper = read_checkpoint(path)
    dropped = tuple(name for name in tensors if name.startswith(ORIGINAL_PREFIX))
    kept = {name: tensor for name, tensor in tensors.items() if name not in dropped}
    return kept, PaletteFile(
        wrapper, {name: exported_dtype(tensor.dtype) for name, tensor in kept.items()}, dropped
    )


def fill_palette(model: Palette, path: Path, *, own_schedule: bool = False) -> PaletteFile:
    """Load a file into a model, make it ready for inference, and return what else the file holds.

    Where the file holds no schedule, the model keeps the one of its shape.

    Args:
        model: The network.
        path: The file.
        own_schedule: Follow the schedule that the file holds, of whatever length, in place of the shape's.

    Raises:
        WeightsError: the file is missing, damaged, refused, does not fit, or was trained with another
            schedule than the model's.
    """
    tensors, file = read_palette(path)
    if not file.has_schedule:
        own = model.state_dict()
        tensors = {name: own[name] for name in SCHEDULE_NAMES} | tensors
    if own_schedule:
        _take_schedule(model, tensors, file, path)
    else:
        _check_schedule(model, tensors, path)
        tensors = {**tensors, **_rounded_away(model, tensors)}
    load_strictly(model, tensors, path, EXPECTED)
    model.eval()
    return file


def save_palette(path: Path, model: Palette, file: PaletteFile) -> None:
    """Write the model's weights in the form of a file that was read: names, order and dtypes."""
    own = model.state_dict()
    tensors = {name: own[name].to(dtype) for name, dtype in file.dtypes.items()}
    write_checkpoint(path, tensors, file.wrapper)


def _take_schedule(model: Palette, tensors: Mapping[str, Tensor], file: PaletteFile, path: Path) -> None:
    """Make room for the schedule of a file; refuse values that are none."""
    if not file.has_schedule:
        raise WeightsError(
            f"{path}: expected a file that holds its schedule, since model.schedule is file, found none, as "
            "in averaged weights (*_ema.pth); name the file beside it, or set model.schedule: published"
        )
    for name in SCHEDULE_NAMES:
        if name in tensors:
            setattr(model, name, tensors[name].float().clone())
    levels = model.gammas
    if levels.ndim != 1 or not bool(((levels > 0) & (levels <= 1)).all() and (levels.diff() <= 0).all()):
        raise WeightsError(
            f"{path}: expected a noise schedule, found gammas that do not fall from 1 to 0; the "
            "file is damaged"
        )


def _rounded_away(model: Palette, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the exact schedule for what a file in half precision holds rounded."""
    own = model.state_dict()
    return {name: own[name] for name in SCHEDULE_NAMES if _is_half(tensors.get(name))}


def _is_half(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.dtype in (torch.float16, torch.bfloat16)


def _check_schedule(model: Palette, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise if the file's own schedule is not that of the model's shape, instead of following it silently."""
    linear = model.shape.schedule
    wanted = build_schedule(linear)
    for name in SCHEDULE_NAMES:
        own, theirs = getattr(wanted, name), tensors.get(name, getattr(wanted, name)).float()
        tolerance = ROUNDED if _is_half(tensors.get(name)) else 1e-4
        if own.shape != theirs.shape or not torch.allclose(theirs, own, rtol=tolerance, atol=1e-6):
            raise WeightsError(
                f"{path}: expected the schedule of {linear.steps} steps from {linear.first:g} to "
                f"{linear.last:g}, found other values of {name}; "
                "set model.schedule: file to follow the file's own"
            )
