"""ImageNet as it lies on disks: sorted into folders, as Kaggle ships it, and Tiny ImageNet."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from pareto_unlearn.data.listing import (
    FileTree,
    find_split_folders,
    list_classes,
    list_files,
    misplaced,
    read_lines,
    split_folders,
)
from pareto_unlearn.data.sources import Members
from pareto_unlearn.errors import ConfigError

KAGGLE_IMAGES, KAGGLE_LABELS = "ILSVRC/Data/CLS-LOC", "LOC_val_solution.csv"
TINY_LABELS = "val/val_annotations.txt"

_LAYOUT = (
    "<root>/train/<wnid>/<image>.JPEG and <root>/val/<wnid>/<image>.JPEG; or as Kaggle ships it, "
    f"<root>/{KAGGLE_IMAGES}/train/<wnid>/<image>.JPEG, <root>/{KAGGLE_IMAGES}/val/<image>.JPEG and "
    f"<root>/{KAGGLE_LABELS}; or Tiny ImageNet, <root>/train/<wnid>/images/<image>.JPEG, "
    f"<root>/val/images/<image>.JPEG and <root>/{TINY_LABELS}. Where all validation images lie in one "
    f"folder, {KAGGLE_LABELS} must lie in <root>"
)


def find_imagenet(root: Path) -> FileTree:
    """Return ImageNet, with the wnids as names of the classes.

    Raises:
        ConfigError: a folder or list is missing, or a list is not as published.
    """
    if is_tiny_imagenet(root):
        return find_tiny_imagenet(root)
    inside = f"{KAGGLE_IMAGES}/" if (root / KAGGLE_IMAGES).is_dir() else ""
    train, heldout = split_folders(root / inside) or ("train", "val")
    labels = root / KAGGLE_LABELS
    if not labels.is_file():
        words = "ImageNet, sorted into folders"
        return find_split_folders(root, _LAYOUT, f"{inside}{train}", f"{inside}{heldout}", words)
    classes = list_classes(root / inside / train, _LAYOUT)
    listing = partial(_list_kaggle, root, f"{inside}{train}", f"{inside}{heldout}")
    return FileTree(root, classes, listing, f"ImageNet as Kaggle ships it, labelled by {KAGGLE_LABELS}")


def is_tiny_imagenet(root: Path) -> bool:
    """Return whether a folder is Tiny ImageNet, by its list of validation images."""
    return (root / TINY_LABELS).is_file()


def find_tiny_imagenet(root: Path) -> FileTree:
    """Return Tiny ImageNet, whose folders are ``images`` and whose validation images have one list.

    Raises:
        ConfigError: a folder is missing.
    """
    classes = list_classes(root / "train", _LAYOUT)
    return FileTree(root, classes, partial(_list_tiny, root), f"Tiny ImageNet, labelled by {TINY_LABELS}")


def _list_tiny(root: Path, classes: Sequence[str]) -> Mapping[str, Members]:
    lines = read_lines(root / TINY_LABELS, "the list of Tiny ImageNet", _LAYOUT)
    labelled = _labelled(root / TINY_LABELS, (line.split("\t")[:2] for line in lines))
    heldout = _by_class(labelled, classes, "val/images")
    return {
        name: Members(list_files(root, f"train/{name}/images", _LAYOUT), heldout[name]) for name in classes
    }


def _list_kaggle(root: Path, train: str, heldout: str, classes: Sequence[str]) -> Mapping[str, Members]:
    rows = csv.reader(read_lines(root / KAGGLE_LABELS, "Kaggle's list of labels", _LAYOUT)[1:])
    # A prediction is the class and the corners of a box, for every object; all are of one class.
    pairs = ([f"{row[0]}.JPEG", *row[1].split()[:1]] if len(row) == 2 else row for row in rows)
    of_class = _by_class(_labelled(root / KAGGLE_LABELS, pairs), classes, heldout)
    return {name: Members(list_files(root, f"{train}/{name}", _LAYOUT), of_class[name]) for name in classes}


def _labelled(path: Path, pairs: Iterator[Sequence[str]]) -> Iterator[tuple[str, str]]:
    for pair in pairs:
        if len(pair) != 2 or not all(pair) or "/" in pair[0]:
            raise ConfigError(
                f"{path}: expected the name and the wnid of an image on every line, found "
                f"{' '.join(pair)[:80]!a}; unpack the published list again"
            )
        yield pair[0], pair[1]


def _by_class(
    labelled: Iterator[tuple[str, str]], classes: Sequence[str], folder: str
) -> Mapping[str, tuple[str, ...]]:
    of_class: dict[str, list[str]] = {name: [] for name in classes}
    for name, wnid in labelled:
        if wnid in of_class:
            of_class[wnid].append(f"{folder}/{name}")
    empty = next((name for name, images in of_class.items() if not images), None)
    if empty is not None:
        raise misplaced(f"validation images of {empty}", Path(folder), _LAYOUT)
    return {name: tuple(sorted(images)) for name, images in of_class.items()}
