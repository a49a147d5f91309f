"""Divides a data set as the sweep file says: finds its source, chooses classes and images, and opens them."""

from collections.abc import Callable
from pathlib import Path

import torch

from pareto_unlearn.config import DataSection
from pareto_unlearn.data.choice import Choice, choose_bystanders, choose_images
from pareto_unlearn.data.digits import DIGITS_PIXELS, load_digits
from pareto_unlearn.data.duplicates import drop_heldout_copies
from pareto_unlearn.data.file_source import FileSource
from pareto_unlearn.data.generated import GeneratedSource
from pareto_unlearn.data.image_sets import ImageSet, SplitData
from pareto_unlearn.data.layouts import LAYOUTS
from pareto_unlearn.data.listing import FileTree
from pareto_unlearn.data.pixel_cache import CacheRoom, open_shared
from pareto_unlearn.data.sources import MemorySource, Source
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import PixelFormat

DATASETS: dict[str, Callable[[], ImageSet]] = {"digits": load_digits}
"""The data sets that are loaded whole into memory."""


def load_split(
    config: DataSection, seed: int, pixels: PixelFormat = DIGITS_PIXELS, cache: Path | None = None
) -> SplitData:
    """Return the images of a sweep, divided as the sweep file says.

    The data set's own split decides whether an image is held out, or else the image's id within its class. So
    no choice of classes or seed ever moves an image that the original model was trained on into the held-out
    split. Of image files only names, sizes and times are read here, pixels and digests on first access.

    Args:
        config: the ``data`` section.
        seed: decides which classes are drawn where the section gives their number, or which images.
        pixels: the pixel format that the model family reads.
        cache: folder on this machine where decoded image files are kept as memory-mapped files, unless the
            section names one; None: the files are decoded whenever they are indexed.

    Raises:
        ConfigError: an unknown class, an overlap, too few images, a data set without such pixels, files
            missing where the data set's layout expects them, or a folder of another user for their pixels.
    """
    source = _find_source(config, pixels, cache)
    chosen = choose_images(config, source, seed)
    if config.duplicates == "drop_heldout":
        chosen = drop_heldout_copies(chosen, source)
    return SplitData(
        **{name: _open(source, choice) for name, choice in chosen.items()},
        has_proxy=config.proxy_retain is not None,
    )


def load_bystanders(config: DataSection, seed: int, pixels: PixelFormat, most: int) -> ImageSet | None:
    """Return held-out images of classes that the sweep neither forgets nor keeps; None without such classes.

    Args:
        config: the ``data`` section.
        seed: decides which classes are drawn where the section gives their number.
        pixels: the pixel format that the model family reads.
        most: about how many images.

    Raises:
        ConfigError: files are missing where the data set's layout expects them.
    """
    source = _find_source(config, pixels, None)
    choice = choose_bystanders(config, source, seed, most)
    return None if choice is None else _open(source, choice)


def _find_source(config: DataSection, pixels: PixelFormat, cache: Path | None) -> Source:
    if config.dataset == "generated":
        return GeneratedSource(pixels)
    if config.dataset in DATASETS:
        whole = DATASETS[config.dataset]()
        _check_pixels(config.dataset, whole, pixels)
        return MemorySource(whole)
    # Never None here: for a data set of files the section requires a root.
    shared = None if cache is None else config.cache_folder
    room = CacheRoom(cache if shared is None else open_shared(shared), config.cache_bytes)
    return FileSource(find_tree(config), pixels, room, follow_links=config.follow_links)


def find_tree(config: DataSection) -> FileTree:
    """Return the files of a data set that lies below ``data.root``.

    Raises:
        ConfigError: they are not where the layout expects them.
    """
    return LAYOUTS[config.dataset](Path(config.root or ".").expanduser())


def _check_pixels(dataset: str, whole: ImageSet, pixels: PixelFormat) -> None:
    _, channels, height, width = whole.images.shape
    if (channels, height, width) != (pixels.channels, pixels.side, pixels.side):
        raise ConfigError(
            f"data.dataset: expected images of {pixels.side} x {pixels.side} pixels and {pixels.channels} "
            f"channels, which the model reads, found {dataset}, whose images have {width} x {height} and "
            f"{channels}; choose another data set or model"
        )


def _open(source: Source, choice: Choice) -> ImageSet:
    images, digests = source.open(choice.image_ids)
    return ImageSet(
        images=images,
        class_ids=torch.tensor(choice.class_ids, dtype=torch.int64),
        class_names=choice.classes,
        image_ids=choice.image_ids,
        sha256=digests,
    )
