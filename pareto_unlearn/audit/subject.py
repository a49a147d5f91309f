"""What an audit looks at: a model, and for each set of images their pixels, inputs and classes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pareto_unlearn.models import ImageToImage

Key = tuple[str, str]
"""(set, split): forget or retain, train or heldout."""


@dataclass(frozen=True, slots=True, eq=False)
class Photos:
    """Some images of one set and split.

    Args:
        ids: of the images, as in the manifest.
        pixels: the true images, in [0, 1].
        inputs: what the model is given for them.
        class_ids: class of each.
        generate: from a model, the numbers of some images and their pixels to its [0, 1] pictures of them,
            drawn alike at every call.
        redraw: from the numbers of some images and that of a draw to their inputs with new draws; the same
            inputs if nothing is drawn.
    """

    ids: tuple[str, ...]
    pixels: Float[Tensor, "n c h w"]
    inputs: Tensor
    class_ids: Int[Tensor, " n"]
    generate: Callable[[ImageToImage, Int[Tensor, " k"], Float[Tensor, "k c h w"]], Float[Tensor, "k c h w"]]
    redraw: Callable[[Int[Tensor, " k"], int], Tensor]

    def __len__(self) -> int:
        return len(self.pixels)

    def choose(self, rows: Int[Tensor, " k"]) -> "Photos":
        """Return some of the images."""
        return Photos(
            tuple(self.ids[row] for row in rows.tolist()),
            self.pixels[rows],
            self.inputs[rows],
            self.class_ids[rows],
            lambda model, chosen, pixels: self.generate(model, rows[chosen], pixels),
            lambda chosen, draw: self.redraw(rows[chosen], draw),
        )

    def pictures(self, model: ImageToImage) -> Float[Tensor, "n c h w"]:
        """Return a model's pictures of all images."""
        return self.generate_from(model, self.pixels)

    def generate_from(
        self, model: ImageToImage, pixels: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n c h w"]:
        """Return a model's pictures of all images from other pixels of theirs."""
        return self.generate(model, torch.arange(len(self)), pixels)


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A model to audit, with its images by (set, split), all on the model's device.

    ``encoder`` are the parameters that alone change the encoder's output. ``other_holes`` yields names and
    models of the same weights whose tasks remove other parts of the images.
    """

    model: ImageToImage
    photos: Mapping[Key, Photos]
    encoder: tuple[str, ...]
    other_holes: Callable[[], Iterator[tuple[str, ImageToImage]]] = lambda: iter(())

    @property
    def hole(self) -> Tensor:
        """Mask of the pixels that the model fills in."""
        return self.model.removed_pixels()


def errors_in_hole(model: ImageToImage, photos: Photos) -> Float[np.ndarray, " n"]:
    """Return each image's squared error in the hole, a mean over its pixels.

    Of a model whose inputs are drawn, pictures take many passes: there it is the training loss of each image
    under its own draws (one query, as arXiv:2509.25003).
    """
    if model.is_redrawn:
        with torch.no_grad():
            losses = [model.training_loss(photos.inputs[place : place + 1]) for place in range(len(photos))]
        return torch.stack(losses).double().cpu().numpy()
    return errors_of(photos.pictures(model), photos.pixels, model.removed_pixels())


def errors_of(
    pictures: Float[Tensor, "n c h w"], truth: Float[Tensor, "n c h w"], hole: Tensor
) -> Float[np.ndarray, " n"]:
    """Return the mean squared error of each picture over the pixels of the hole."""
    return (pictures - truth)[:, :, hole].double().square().mean(dim=(1, 2)).cpu().numpy()


def spread_over_classes(class_ids: Int[Tensor, " n"], count: int) -> Int[Tensor, " k"]:
    """Return the numbers of the first images of each class by turns, at most ``count`` of them."""
    places = [(class_ids == one).nonzero().flatten().tolist() for one in sorted(set(class_ids.tolist()))]
    turns = max((len(rows) for rows in places), default=0)
    order = [rows[turn] for turn in range(turns) for rows in places if turn < len(rows)]
    return torch.tensor(order[:count], dtype=torch.long)
