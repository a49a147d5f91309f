"""Features, the part of a model's output that f1 and f2 compare, also for more inputs than fit in memory."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

EVALUATION_BATCH = 256

SPILL_BYTES = 2**28
"""Features of more bytes than this are kept in a file while they are computed."""

Features = Callable[[Tensor], Float[Tensor, "b d"]]
"""Maps model inputs to the features that f1 and f2 compare."""


@runtime_checkable
class Generative(Protocol):
    """The part of ``models.ImageToImage`` that features need, stated here to keep ``models`` unimported."""

    def encode(self, inputs: Tensor) -> Tensor:
        """Return the encoder's output."""
        ...

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the full output."""
        ...


@runtime_checkable
class Rows(Protocol):
    """Model inputs of a set of images, indexed by position, such as a tensor."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, rows: Int[Tensor, " b"]) -> Tensor:
        """Return the inputs of some images."""
        ...


def feature_function(model: Generative, space: str) -> Callable[[Tensor], Float[Tensor, "b d"]]:
    """Return the function from model inputs to flat features: the full output, or the encoder's output."""
    inner: Callable[[Tensor], Tensor] = model.encode if space == "encoder" else model
    return lambda inputs: inner(inputs).flatten(1)


def compute_features(
    features: Features, inputs: Rows, *, batch: int = EVALUATION_BATCH, spill: Path | None = None
) -> Float[Tensor, "n d"]:
    """Return the features of many inputs, without gradients, in batches of a fixed size.

    Args:
        features: maps inputs to features of a model.
        inputs: the model inputs, at least one.
        batch: number of inputs at a time.
        spill: folder for a nameless file that holds a large result; None keeps every result in memory.

    Raises:
        ValueError: there are no inputs.
    """
    result: Tensor | None = None
    for rows, part in iterate_features(features, inputs, batch):
        if result is None:
            result = _allocate(len(inputs), part, spill)
        result[rows] = part.to(result.device)
    if result is None:
        raise ValueError("expected at least one input, found none")
    return result


def iterate_features(
    features: Features, inputs: Rows, batch: int
) -> Iterator[tuple[Int[Tensor, " b"], Float[Tensor, "b d"]]]:
    """Yield the positions of a batch of inputs and their features, without gradients, batch by batch."""
    for rows in torch.split(torch.arange(len(inputs)), batch):
        with torch.no_grad():
            part = features(inputs[rows])
        yield rows, part


def _allocate(count: int, like: Float[Tensor, "b d"], spill: Path | None) -> Float[Tensor, "n d"]:
    """Return space for features: beside ``like``, or in a nameless file that goes with its last reader."""
    shape = (count, like.shape[1])
    if spill is None or count * like[0].nbytes < SPILL_BYTES:
        return like.new_empty(shape)
    with tempfile.TemporaryFile(dir=spill) as file:
        # On a full disk a mapped page that has no room kills the process; this raises an error instead.
        if hasattr(os, "posix_fallocate"):  # macOS has none
            os.posix_fallocate(file.fileno(), 0, count * like[0].nbytes)
        return torch.from_numpy(np.memmap(file, dtype=like.cpu().numpy().dtype, mode="w+", shape=shape))
