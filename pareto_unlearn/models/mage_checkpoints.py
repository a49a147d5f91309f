"""The published files of MAGE: a single file with the tokeniser as ``vqgan.*``, or MAGE and tokeniser apart.

``mage-vitb-1600.pth`` is ``{'model': state dict}`` with the tokeniser inside. Files of the published
unlearning add the optimiser, the epoch and a pickled ``argparse.Namespace``. ``vqgan_jax_strongaug.ckpt`` has
the tokeniser's keys without a prefix.
"""

from argparse import Namespace
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
from pareto_unlearn.models.mage import Mage

__all__ = ["MageFiles", "StoredForm", "load_mage", "read_mage_checkpoint", "write_mage_checkpoint"]

MAGE_FILE, TOKENIZER_FILE = "mage-vitb-1600.pth", "vqgan_jax_strongaug.ckpt"
TOKENIZER_PREFIX = "vqgan."
DISCRIMINATOR = "vqgan.loss."
"""What trained the tokeniser; files saved during that training hold it, and nothing here reads it."""


@dataclass(frozen=True, slots=True)
class StoredForm:
    """How a file holds its tensors: the wrapper, and their types by name, in the order of the file."""

    wrapper: Wrapper
    dtypes: dict[str, torch.dtype]


@dataclass(frozen=True, slots=True)
class MageFiles:
    """The form of a published checkpoint; ``tokenizer`` is None if MAGE's file holds the tokeniser."""

    mage: StoredForm
    tokenizer: StoredForm | None = None


def read_mage_checkpoint(path: Path, tokenizer: Path | None = None) -> tuple[dict[str, Tensor], MageFiles]:
    """Read MAGE with its tokeniser from the published files.

    Args:
        path: MAGE's file.
        tokenizer: The tokeniser's own file, where MAGE's does not hold it.

    Returns:
        All tensors of the network, with the names it has for them, and the form of the files.

    Raises:
        WeightsError: a file is missing, damaged, or holds a class that is not allowed; or the tokeniser is
            nowhere, or in both files and not the same.
    """
    tensors, form = _read(path, "")
    inside = {name: value for name, value in tensors.items() if name.startswith(TOKENIZER_PREFIX)}
    if tokenizer is None:
        if not inside:
            raise WeightsError(
                f"{path}: expected {MAGE_FILE} with the tokeniser as {TOKENIZER_PREFIX}*, found no such "
                f"weights; give the tokeniser's own file, {TOKENIZER_FILE}"
            )
        return tensors, MageFiles(form)
    own, own_form = _read(tokenizer, TOKENIZER_PREFIX)
    if not inside:
        return tensors | own, MageFiles(form, own_form)
    _require_same(inside, own, path, tokenizer)
    return tensors, MageFiles(form)


def write_mage_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], files: MageFiles, tokenizer: Path | None = None
) -> None:
    """Write a network's tensors in the form they were read in: same keys, order, types and wrapper.

    Args:
        path: MAGE's file.
        tensors: The state dict.
        files: The form, from ``read_mage_checkpoint``.
        tokenizer: Where the tokeniser's own file goes; None leaves it out, since unlearning does not change
            it.

    Raises:
        WeightsError: a tensor of the form is not among ``tensors``, or a ``.safetensors`` file should hold
            more than tensors.
    """
    _write(path, tensors, files.mage, "")
    if files.tokenizer is not None and tokenizer is not None:
        _write(tokenizer, tensors, files.tokenizer, TOKENIZER_PREFIX)


def load_mage(model: Mage, path: Path, tokenizer: Path | None = None) -> MageFiles:
    """Fill a network from the published files and return their form.

    Raises:
        WeightsError: as ``read_mage_checkpoint``, or the weights do not fit the network.
    """
    tensors, files = read_mage_checkpoint(path, tokenizer)
    beside = f" beside {tokenizer} ({TOKENIZER_FILE})" if files.tokenizer else ", which holds its tokeniser"
    load_strictly(model, tensors, path, MAGE_FILE + beside)
    return files


def _read(path: Path, prefix: str) -> tuple[dict[str, Tensor], StoredForm]:
    stored, wrapper = read_checkpoint(path, allowed=(Namespace,))
    every = {prefix + name: value for name, value in stored.items()}
    tensors = {name: value for name, value in every.items() if not name.startswith(DISCRIMINATOR)}
    return tensors, StoredForm(
        wrapper, {name: exported_dtype(value.dtype) for name, value in tensors.items()}
    )


def _write(path: Path, tensors: Mapping[str, Tensor], form: StoredForm, prefix: str) -> None:
    lost = [name for name in form.dtypes if name not in tensors]
    if lost:
        raise WeightsError(
            f"{path}: expected the weights it was read with, found no {lost[0]} among those to write"
        )
    stored = {name.removeprefix(prefix): tensors[name].to(dtype) for name, dtype in form.dtypes.items()}
    write_checkpoint(path, stored, form.wrapper)


def _require_same(
    inside: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path, tokenizer: Path
) -> None:
    for name in inside.keys() | own.keys():
        if name not in inside or name not in own or not torch.equal(inside[name], own[name]):
            raise WeightsError(
                f"{path} holds a tokeniser of its own, and {tokenizer} another: they differ in {name}; "
                "leave one out"
            )
