"""A data set divided as the sweep file says: which classes, which images of them, and where those come from."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from pareto_unlearn.config import DataSection
from pareto_unlearn.data.digits import DIGITS_PIXELS, load_digits
from pareto_unlearn.data.file_source import FileSource
from pareto_unlearn.data.generated import GeneratedSource
from pareto_unlearn.data.image_sets import ImageSet, SplitData
from pareto_unlearn.data.layouts import LAYOUTS
from pareto_unlearn.data.order import seeded_generator
from pareto_unlearn.data.pixel_cache import CacheRoom
from pareto_unlearn.data.sources import Members, MemorySource, Source
from pareto_unlearn.records import ConfigError, PixelFormat

DATASETS: dict[str, Callable[[], ImageSet]] = {"digits": load_digits}
"""The data sets that are whole in memory."""

_SHOWN_CLASSES = 20


def load_split(
    config: DataSection, seed: int, pixels: PixelFormat = DIGITS_PIXELS, cache: Path | None = None
) -> SplitData:
    """Find the images of a sweep and divide them as the sweep file says.

    Whether an image is held out is decided by the data set's own split, or else by its id within its class, so no
    choice of classes or seed ever moves an image that the original model was trained on into the held-out split.
    Of image files only names, sizes and times are read here; pixels and digests follow when they are asked for.

    Args:
        config: the ``data`` section.
        seed: decides which classes are drawn where the section gives a number of classes.
        pixels: what the model family reads.
        cache: folder of memory-mapped files on this machine, where decoded image files are kept; None: they are decoded whenever
            they are asked for.

    Raises:
        ConfigError: an unknown class, an overlap, too few images, a data set without such pixels, or files that are not
            where the data set's layout has them.
    """
    source = _find_source(config, pixels, cache)
    forget, retain = choose_classes(config, source.class_names, seed)
    members = source.list_images((*forget, *retain))
    # The training sets come first: they are read most often, and what is opened first is cached first.
    chosen = {
        f"{name}_{split}": _take(members, classes, split, limit)
        for split, limit in (("train", config.train_per_class), ("heldout", config.heldout_per_class))
        for name, classes in (("forget", forget), ("retain", retain))
    }
    for name, ids in chosen.items():
        if not ids:
            raise ConfigError(
                f"data: expected images in every set and split, found none in {name}: a fifth of a class is held out, "
                "so some class of each set needs at least three images"
            )
    classes_of = {"forget": forget, "retain": retain}
    return SplitData(
        **{name: _open(source, ids, classes_of[name.split("_")[0]]) for name, ids in chosen.items()}
    )


def choose_classes(
    config: DataSection, known: Sequence[str], seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the forget and the retain classes, each in the data set's order.

    Raises:
        ConfigError: a class is unknown or the numbers do not fit.
    """
    forget = _named_or_drawn("data.forget_classes", config.forget_classes, known, seed)
    rest = [name for name in known if name not in forget]
    if not rest:
        raise ConfigError(
            f"data.forget_classes: found all {len(known)} classes; leave at least one to retain"
        )
    wanted = len(rest) if config.retain_classes is None else config.retain_classes
    pool = rest if isinstance(wanted, int) else known
    retain = _named_or_drawn("data.retain_classes", wanted, pool, seed + 1)
    overlap = sorted(set(forget) & set(retain))
    if overlap:
        raise ConfigError(f"data: classes {', '.join(overlap)} are in both forget_classes and retain_classes")
    return forget, retain


def _find_source(config: DataSection, pixels: PixelFormat, cache: Path | None) -> Source:
    if config.dataset == "generated":
        return GeneratedSource(pixels)
    if config.dataset in DATASETS:
        whole = DATASETS[config.dataset]()
        _check_pixels(config.dataset, whole, pixels)
        return MemorySource(whole)
    # The section refuses a data set of files without a root.
    tree = LAYOUTS[config.dataset](Path(config.root or "."))
    return FileSource(tree, pixels, CacheRoom(cache, config.cache_bytes))


def _check_pixels(dataset: str, whole: ImageSet, pixels: PixelFormat) -> None:
    _, channels, height, width = whole.images.shape
    if (channels, height, width) != (pixels.channels, pixels.side, pixels.side):
        raise ConfigError(
            f"data.dataset: expected images of {pixels.side} x {pixels.side} pixels and {pixels.channels} channels, which the model "
            f"reads, found {dataset}, whose images have {width} x {height} and {channels}; choose another data set or model"
        )


def _named_or_drawn(
    key: str, wanted: int | Sequence[str], known: Sequence[str], seed: int
) -> tuple[str, ...]:
    if isinstance(wanted, int):
        if not 1 <= wanted <= len(known):
            raise ConfigError(f"{key}: found {wanted}, but between 1 and {len(known)} classes can be drawn")
        order = torch.randperm(len(known), generator=seeded_generator(seed)).tolist()
        wanted = [known[index] for index in order[:wanted]]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(
            f"{key}: unknown class {', '.join(unknown)}; {_describe_classes(unknown[0], known)}"
        )
    return tuple(name for name in known if name in set(wanted))


def _describe_classes(unknown: str, known: Sequence[str]) -> str:
    if len(known) <= _SHOWN_CLASSES:
        return f"the data set has {', '.join(known)}"
    nearest = difflib.get_close_matches(unknown, known) or known[:3]
    return f"the data set has {len(known)} classes, such as {', '.join(nearest)}"


def _take(
    members: Mapping[str, Members], classes: Sequence[str], split: str, limit: int | None
) -> list[tuple[str, int]]:
    """Return the first images of each class by id, as (image id, position of the class), sorted by id."""
    chosen: list[tuple[str, int]] = []
    for position, name in enumerate(classes):
        ids = getattr(members[name], split)
        if limit is not None and len(ids) < limit:
            raise ConfigError(
                f"data.{split}_per_class: found {limit}, but class {name} has only {len(ids)} such images"
            )
        chosen += [(image_id, position) for image_id in ids[:limit]]
    return sorted(chosen)


def _open(source: Source, chosen: Sequence[tuple[str, int]], classes: tuple[str, ...]) -> ImageSet:
    image_ids = tuple(image_id for image_id, _ in chosen)
    images, digests = source.open(image_ids)
    return ImageSet(
        images=images,
        class_ids=torch.tensor([position for _, position in chosen], dtype=torch.int64),
        class_names=classes,
        image_ids=image_ids,
        sha256=digests,
    )
