"""Which images a model must forget and which it must keep: data sets, splits, and the order of mini-batches.

Images are float32, NCHW, [0, 1] (one channel where the data set has one). A split is a manifest: image id, class,
set, split and SHA-256, decided by ids and classes alone, so it is the same on any machine.
"""

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from pareto_unlearn.config import DataSection
from pareto_unlearn.records import ConfigError

HELDOUT_RATIO = 0.2
DIGITS_SIDE = 16


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images of one set and split, in the order of their ids.

    ``class_ids`` indexes ``class_names``; ``sha256`` is of each image's float32 pixels.
    """

    images: Float[Tensor, "n c h w"]
    class_ids: Int[Tensor, " n"]
    class_names: tuple[str, ...]
    image_ids: tuple[str, ...]
    sha256: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, slots=True, eq=False)
class SplitData:
    """The four image sets of a sweep, keyed by (set, split)."""

    forget_train: ImageSet
    forget_heldout: ImageSet
    retain_train: ImageSet
    retain_heldout: ImageSet

    def items(self) -> Iterable[tuple[str, str, ImageSet]]:
        """Yield (set, split, images) in a fixed order."""
        yield "forget", "train", self.forget_train
        yield "forget", "heldout", self.forget_heldout
        yield "retain", "train", self.retain_train
        yield "retain", "heldout", self.retain_heldout


def load_digits() -> ImageSet:
    """Return scikit-learn's 1,797 digits, enlarged from 8 to 16 pixels a side (bilinear)."""
    from sklearn.datasets import load_digits as load_bundle  # half a second, wanted by few commands

    bundle = load_bundle()
    small = torch.from_numpy(bundle.images.astype(np.float32) / 16.0)[:, None]
    images = functional.interpolate(
        small, size=(DIGITS_SIDE, DIGITS_SIDE), mode="bilinear", align_corners=False
    )
    return ImageSet(
        images=images,
        class_ids=torch.from_numpy(bundle.target.astype(np.int64)),
        class_names=tuple(str(digit) for digit in range(10)),
        image_ids=tuple(f"digits-{index:04d}" for index in range(len(images))),
        sha256=tuple(hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images),
    )


DATASETS: dict[str, Callable[[], ImageSet]] = {"digits": load_digits}


def load_split(config: DataSection, seed: int, pixels: object = None, cache: object = None) -> SplitData:
    """Load the data set and divide it as the sweep file says.

    Whether an image is held out depends on its id alone, so no choice of classes or seed ever moves an image that
    the original model was trained on into the held-out split.

    Args:
        config: the ``data`` section.
        seed: decides which classes are drawn where the section gives a number of classes.

    Raises:
        ConfigError: an unknown class, an overlap, or too few images.
    """
    whole = DATASETS[config.dataset]()
    forget, retain = choose_classes(config, whole.class_names, seed)
    heldout = mark_heldout(whole)
    parts = {
        f"{name}_{split}": _take(whole, classes, mask, limit, f"data.{split}_per_class")
        for name, classes in (("forget", forget), ("retain", retain))
        for split, mask, limit in (
            ("train", ~heldout, config.train_per_class),
            ("heldout", heldout, config.heldout_per_class),
        )
    }
    for name, images in parts.items():
        if len(images) == 0:
            raise ConfigError(
                f"data: expected images in every set and split, found none in {name}: a fifth of a class is held out, "
                "so some class of each set needs at least three images"
            )
    return SplitData(**parts)


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


def write_manifest(split: SplitData) -> str:
    """Return the split as CSV text with columns image_id, class_name, set, split, sha256."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image_id", "class_name", "set", "split", "sha256"))
    for name, part, images in split.items():
        class_ids = images.class_ids.tolist()
        for image_id, class_id, digest in zip(images.image_ids, class_ids, images.sha256, strict=True):
            writer.writerow((image_id, images.class_names[class_id], name, part, digest))
    return text.getvalue()


class BatchOrder:
    """Mini-batch indices as a pure function of the step: resuming needs no state.

    Every epoch is a fresh permutation, drawn from a generator seeded with (seed, stream, epoch). A batch may
    span two epochs; each image is used once an epoch.
    """

    def __init__(self, count: int, batch: int, seed: int, stream: int) -> None:
        if count < 1:
            raise ValueError("cannot draw batches from an empty set")
        self._count, self._batch, self._key = count, batch, (seed, stream)
        self._epochs: dict[int, Int[Tensor, " n"]] = {}

    def __call__(self, step: int) -> Int[Tensor, " b"]:
        """Return the indices of the batch at ``step`` (counting from 0)."""
        return self.take(step * self._batch, (step + 1) * self._batch)

    def take(self, first: int, end: int) -> Int[Tensor, " b"]:
        """Return the indices from position ``first`` up to ``end`` of the endless order; none where they are equal."""
        if end <= first:
            return torch.empty(0, dtype=torch.int64)
        epochs = range(first // self._count, (end - 1) // self._count + 1)
        # Only the epochs of this batch are kept: a neighbouring step needs no others.
        self._epochs = {epoch: self._permutation(epoch) for epoch in epochs}
        joined = torch.cat(list(self._epochs.values()))
        offset = first - epochs.start * self._count
        return joined[offset : offset + end - first]

    def _permutation(self, epoch: int) -> Int[Tensor, " n"]:
        if epoch in self._epochs:
            return self._epochs[epoch]
        return torch.randperm(self._count, generator=seeded_generator(*self._key, epoch))


class StratifiedOrder:
    """Mini-batches with equal numbers of every class, as a pure function of the step.

    Where the batch is no multiple of the number of classes, the places left over go round the classes; with more
    classes than places, the classes themselves do. Within a class the order is that of ``BatchOrder``.
    """

    def __init__(self, class_ids: Int[Tensor, " n"], batch: int, seed: int, stream: int) -> None:
        classes = torch.unique(class_ids).tolist()
        self._members = [(class_ids == class_id).nonzero().flatten() for class_id in classes]
        self._orders = [
            BatchOrder(len(members), 1, seed, stream * 100_003 + class_id)
            for class_id, members in zip(classes, self._members, strict=True)
        ]
        self._base, self._rest = divmod(batch, len(classes))

    def __call__(self, step: int) -> Int[Tensor, " b"]:
        """Return the indices of the batch at ``step`` (counting from 0), class by class."""
        return torch.cat(
            [
                members[order.take(self._drawn_before(step, rank), self._drawn_before(step + 1, rank))]
                for rank in self._ranks_at(step)
                for members, order in [(self._members[rank], self._orders[rank])]
            ]
        )

    def _ranks_at(self, step: int) -> Sequence[int]:
        """Return the classes of a batch, so that its cost does not grow with the classes that are not in it."""
        classes = len(self._members)
        if self._base > 0:
            return range(classes)
        return sorted((step * self._rest + place) % classes for place in range(self._rest))

    def _drawn_before(self, step: int, rank: int) -> int:
        """Count the images of a class in all batches before ``step``.

        The left-over places of all steps form one endless sequence that walks round the classes.
        """
        places, classes = step * self._rest, len(self._members)
        return step * self._base + places // classes + (rank < places % classes)


def seeded_generator(*key: int) -> torch.Generator:
    """Return a CPU generator whose stream depends on all integers of ``key``."""
    digest = hashlib.sha256(",".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


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
        raise ConfigError(f"{key}: unknown class {', '.join(unknown)}; the data set has {', '.join(known)}")
    return tuple(name for name in known if name in set(wanted))


def mark_heldout(whole: ImageSet) -> Bool[Tensor, " n"]:
    """Mark a fixed share of each class, the ids with the smallest hashes."""
    ranks = np.array([hashlib.sha256(image_id.encode()).hexdigest() for image_id in whole.image_ids])
    heldout = torch.zeros(len(whole), dtype=torch.bool)
    for class_id in range(len(whole.class_names)):
        members = np.flatnonzero(whole.class_ids.numpy() == class_id)
        chosen = members[np.argsort(ranks[members])][: round(HELDOUT_RATIO * len(members))]
        heldout[torch.from_numpy(chosen)] = True
    return heldout


def _take(
    whole: ImageSet, classes: Sequence[str], mask: Bool[Tensor, " n"], limit: int | None, limit_key: str
) -> ImageSet:
    chosen: list[int] = []
    for name in classes:
        members = (mask & (whole.class_ids == whole.class_names.index(name))).nonzero().flatten().tolist()
        if limit is not None and len(members) < limit:
            raise ConfigError(
                f"{limit_key}: found {limit}, but class {name} has only {len(members)} such images"
            )
        chosen += members[:limit]
    index = torch.tensor(sorted(chosen), dtype=torch.int64)
    new_ids = {whole.class_names.index(name): position for position, name in enumerate(classes)}
    return ImageSet(
        images=whole.images[index],
        class_ids=torch.tensor(
            [new_ids[class_id] for class_id in whole.class_ids[index].tolist()], dtype=torch.int64
        ),
        class_names=tuple(classes),
        image_ids=tuple(whole.image_ids[i] for i in index.tolist()),
        sha256=tuple(whole.sha256[i] for i in index.tolist()),
    )
