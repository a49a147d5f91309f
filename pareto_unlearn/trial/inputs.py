"""Model inputs of whole image sets, and everything that chance decides about them.

A draw depends on the sweep's seed, the set and the number of the image alone, so f1 and f2 of a model are the
same numbers at every call, in every batch and on every worker. What a training step draws anew depends on the
trial's seed and the step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from pareto_unlearn.data import ImageSet, PixelNoise, SplitData, pixels_on, seeded_generator
from pareto_unlearn.device_copies import take_rows, upload
from pareto_unlearn.models import DrawsFromImages, ImageToImage
from pareto_unlearn.objectives import open_rows
from pareto_unlearn.random_streams import Stream

SETS = {
    ("forget", "train"): 0,
    ("forget", "heldout"): 1,
    ("retain", "train"): 2,
    ("retain", "heldout"): 3,
}


@dataclass(frozen=True, slots=True, eq=False)
class LazyRows:
    """Rows that are made when they are indexed; ``images`` returns what they are made from, if known."""

    count: int
    make: Callable[[Int[Tensor, " b"]], Tensor]
    images: Callable[[Int[Tensor, " b"]], Tensor] | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: Int[Tensor, " b"]) -> Tensor:
        return self.make(rows)


Rows = Tensor | LazyRows


def generators_of(
    seed: int, stream: int, rows: Int[Tensor, " b"] | Sequence[int], *place: int
) -> list[torch.Generator]:
    """Return a generator for every image of a set, by its number; ``place`` keeps sets or steps apart."""
    numbers = rows.tolist() if isinstance(rows, Tensor) else rows
    return [seeded_generator(seed, stream, *place, number) for number in numbers]


def open_inputs(
    model: ImageToImage, split: SplitData, seed: int, device: torch.device, cache: Path, key: str
) -> dict[tuple[str, str], Rows]:
    """Return the inputs of all image sets: stored once a run, or made when they are indexed.

    Args:
        model: of which family, and what it removes.
        split: the images.
        seed: of the sweep.
        device: where the model is.
        cache: folder of the run's memory-mapped files on this machine.
        key: changes whenever anything that decides the inputs changes.
    """
    return {
        (name, part): _open_set(
            model, images, (name, part), seed, device, cache / f"inputs-{key}-{name}-{part}.npy"
        )
        for name, part, images in split.items()
    }


def _open_set(
    model: ImageToImage, images: ImageSet, key: tuple[str, str], seed: int, device: torch.device, path: Path
) -> Rows:
    def take(rows: Int[Tensor, " b"]) -> Tensor:
        return pixels_on(images.images, rows, device)

    def make(rows: Int[Tensor, " b"]) -> Tensor:
        return model.prepare(take(rows), generators_of(seed, Stream.INPUTS, rows, SETS[key]))

    if not model.stores_inputs:
        return LazyRows(len(images), make, take)
    parts = torch.split(torch.arange(len(images)), model.evaluation_batch)
    return open_rows(path, lambda: torch.cat([make(rows) for rows in parts])).to(device)


def draw_inputs(
    model: ImageToImage, inputs: Rows, rows: Int[Tensor, " b"], generators: Sequence[torch.Generator]
) -> Tensor:
    """Return inputs of some images of a set with everything drawn anew; for families that are redrawn.

    Where the family can, they are drawn from the images: the inputs would be drawn only to be drawn again.
    """
    if isinstance(inputs, LazyRows) and inputs.images is not None and isinstance(model, DrawsFromImages):
        return model.draw_inputs(inputs.images(rows), generators)
    stored = take_rows(inputs, rows) if isinstance(inputs, Tensor) else inputs[rows]
    return model.redraw(stored, generators)


def noise_inputs(
    model: ImageToImage,
    inputs: Rows,
    split: str,
    seed: int,
    stream: int = Stream.NOISE,
    sampler: PixelNoise | None = None,
) -> LazyRows:
    """Return the inputs whose outputs by the original are the noise targets of a split of the forget set."""
    place = SETS["forget", split]
    return LazyRows(
        len(inputs),
        lambda rows: make_noise(model, inputs[rows], generators_of(seed, stream, rows, place), sampler),
    )


def make_noise(
    model: ImageToImage, inputs: Tensor, generators: Sequence[torch.Generator], sampler: PixelNoise | None
) -> Tensor:
    """Return the inputs of the noise targets of some inputs; the model draws noise unless a sampler does."""
    pixels = None if sampler is None else upload(sampler(generators), inputs.device)
    return model.noise_like(inputs, generators, pixels)
