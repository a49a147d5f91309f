"""The images of a sweep, in four sets, and the manifest that lists them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from pareto_unlearn.device_copies import upload
from pareto_unlearn.foreign_text import write_csv


@runtime_checkable
class Images(Protocol):
    """Pixels of many images: a tensor, or files that are read when they are indexed.

    ``images[:]`` returns all of them, so for files it needs memory for all.
    """

    @property
    def shape(self) -> torch.Size:
        """Number of images, channels, height, width."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor | list[int] | slice, /) -> Float[Tensor, "n c h w"]:
        """Return some images as float32 in [0, 1] on the CPU; ``rows`` are positions, or a mask."""
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """Images that are slow to read, so that reading them before they are needed saves time."""

    def read_ahead(self, rows: Tensor | list[int] | slice, /) -> None:
        """Start to read some images in the background; this never changes the pixels returned later."""
        ...


@runtime_checkable
class StoresBytes(Protocol):
    """Images whose pixels are bytes as they are read: a quarter of what float32 would take to send."""

    def take_bytes(self, rows: Tensor | list[int] | slice, /) -> UInt8[Tensor, "n c h w"]:
        """Return some images as bytes on the CPU; ``pixels_of`` them are what indexing returns."""
        ...


def pixels_of(values: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Return bytes as float32 in [0, 1], to the bit the same on every device."""
    # By a plain number a GPU would not divide: it multiplies by the reciprocal, and other last bits come out.
    return values.to(torch.float32).div_(torch.full((1,), 255.0, device=values.device))


def pixels_on(
    images: Images, rows: Tensor | list[int] | slice, device: torch.device
) -> Float[Tensor, "n c h w"]:
    """Return some images as float32 in [0, 1] on a device, sent as bytes where they are kept as bytes."""
    if isinstance(images, StoresBytes):
        return pixels_of(upload(images.take_bytes(rows), device))
    return upload(images[rows], device)


@runtime_checkable
class Digests(Protocol):
    """SHA-256 hex digests, one per image: a tuple, or computed on first access."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> str: ...

    def __iter__(self) -> Iterator[str]: ...


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images of one set and split, in the order of their ids.

    ``class_ids`` are positions in ``class_names``. ``sha256`` are the digests of each image's float32 pixels
    where the images come with the package or are generated, and of the file's bytes where they are files; the
    first access hashes all files.
    """

    images: Images
    class_ids: Int[Tensor, " n"]
    class_names: tuple[str, ...]
    image_ids: tuple[str, ...]
    sha256: Digests

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, slots=True, eq=False)
class SplitData:
    """The four image sets of a sweep, keyed by (set, split).

    With ``has_proxy``, ``retain_train`` has images of other classes than ``retain_heldout``.
    """

    forget_train: ImageSet
    forget_heldout: ImageSet
    retain_train: ImageSet
    retain_heldout: ImageSet
    has_proxy: bool = False

    def items(self) -> Iterable[tuple[str, str, ImageSet]]:
        """Yield (set, split, images) in a fixed order."""
        yield "forget", "train", self.forget_train
        yield "forget", "heldout", self.forget_heldout
        yield "retain", "train", self.retain_train
        yield "retain", "heldout", self.retain_heldout


def write_manifest(split: SplitData) -> str:
    """Return the split as CSV text with columns image_id, class_name, set, split, sha256.

    A set is ``forget``, ``retain``, or ``proxy`` for the images that are trained on in place of the retain
    set's. Image files are read from end to end here, for their digests and to find damaged files: once per
    sweep, by its driver.

    Raises:
        ConfigError: names the image files that cannot be read.
    """
    rows = [("image_id", "class_name", "set", "split", "sha256")]
    for name, part, images in split.items():
        class_ids = images.class_ids.tolist()
        shown = "proxy" if split.has_proxy and (name, part) == ("retain", "train") else name
        for image_id, class_id, digest in zip(images.image_ids, class_ids, images.sha256, strict=True):
            rows.append((image_id, images.class_names[class_id], shown, part, digest))
    return write_csv(rows)
