"""Places365 as it is published: small or large images in folders by letter, or its "easy format"."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from pareto_unlearn.data.listing import FileTree, list_classes, list_files, misplaced, read_lines
from pareto_unlearn.data.sources import Members
from pareto_unlearn.errors import ConfigError

CATEGORIES, TRAIN_LIST, HELDOUT_LIST = (
    "categories_places365.txt",
    "places365_train_standard.txt",
    "places365_val.txt",
)
EASY_FORMAT = "places365_standard"
"""The folder that the archive of the easy format unpacks to."""

_LETTERED = (
    ("data_256", "val_256", "256 pixels"),
    ("data_256_standard", "val_256", "256 pixels"),
    ("data_large", "val_large", "large images"),
    ("data_large_standard", "val_large", "large images"),
)
"""Folders of training and validation images: as the archives unpack, and as torchvision names them."""

_LAYOUT = (
    "<root>/data_256/<letter>/<class>/<image>.jpg (or data_256_standard, data_large, data_large_standard), "
    f"<root>/val_256/<image>.jpg (or val_large), and the lists {CATEGORIES}, {TRAIN_LIST} and {HELDOUT_LIST} "
    "in <root>; or the easy format, <root>/train/<class>/<image>.jpg and <root>/val/<class>/<image>.jpg (or "
    f"<root>/val/<image>.jpg with {CATEGORIES} and {HELDOUT_LIST} in <root>)"
)


def find_places365(root: Path) -> FileTree:
    """Return Places365-Standard, with classes such as ``/a/airfield`` in every layout.

    Where both sizes are there, the one of 256 pixels is taken.

    Raises:
        ConfigError: a list or a folder is missing, or a list is not as published.
    """
    for train, heldout, words in _LETTERED:
        if (root / train).is_dir():
            if not (root / heldout).is_dir():
                raise misplaced(f"a folder {heldout}", root, _LAYOUT)
            names = _category_names(root)
            listing = partial(_list_lettered, root, train, heldout, names)
            return FileTree(root, tuple(names.values()), listing, f"Places365, {words}")
    inside = f"{EASY_FORMAT}/" if (root / EASY_FORMAT).is_dir() else ""
    if not (root / inside / "train").is_dir():
        raise misplaced("a folder data_256", root, _LAYOUT)
    listed = _listed_folders(root, root / inside)
    folders = {_category_of(name, listed): name for name in list_classes(root / inside / "train", _LAYOUT)}
    listing = partial(_list_easy, root, inside, folders)
    return FileTree(root, tuple(folders), listing, "Places365, easy format")


def _listed_folders(*places: Path) -> dict[str, str]:
    """Return the published categories by their folders in the easy format; empty where no list is there."""
    at = next((place for place in places if (place / CATEGORIES).is_file()), None)
    names = () if at is None else _category_names(at).values()
    return {name[len("/a/") :].replace("/", "-"): name for name in names}


def _category_of(folder: str, listed: Mapping[str, str]) -> str:
    """Return the category of a folder of the easy format: ``/b/bakery/shop`` lies in ``bakery-shop``.

    No published name has a hyphen of its own, so without the list every hyphen parts two levels. Beside the
    list, a folder that is not in it was added by somebody, and keeps its name.
    """
    own = folder if listed else folder.replace("-", "/")
    return listed.get(folder, f"/{folder[:1]}/{own}")


def _list_easy(
    root: Path, inside: str, folders: Mapping[str, str], classes: Sequence[str]
) -> Mapping[str, Members]:
    flat = (root / HELDOUT_LIST, root / inside / HELDOUT_LIST)
    labels = next((path for path in flat if path.is_file()), None)
    is_sorted = all((root / inside / "val" / folders[name]).is_dir() for name in classes)
    if is_sorted or labels is None:
        heldout = {name: list_files(root, f"{inside}val/{folders[name]}", _LAYOUT) for name in classes}
    else:
        lists = ((labels, f"{inside}val"),)
        heldout = {
            name: ids for name, (ids,) in _listed(lists, _category_names(labels.parent), classes).items()
        }
    return {
        name: Members(list_files(root, f"{inside}train/{folders[name]}", _LAYOUT), heldout[name])
        for name in classes
    }


def _list_lettered(
    root: Path, train: str, heldout: str, names: Mapping[str, str], classes: Sequence[str]
) -> Mapping[str, Members]:
    lists = ((root / TRAIN_LIST, train), (root / HELDOUT_LIST, heldout))
    return {name: Members(*ids) for name, ids in _listed(lists, names, classes).items()}


def _category_names(root: Path) -> dict[str, str]:
    """Return the names of the categories by their labels."""
    return {label: name for name, label in _read_list(root / CATEGORIES)}


def _listed(
    lists: Sequence[tuple[Path, str]], names: Mapping[str, str], classes: Sequence[str]
) -> Mapping[str, tuple[tuple[str, ...], ...]]:
    """Return, for each class, the images in each of several lists; a list's paths start at its folder."""
    of_class: dict[str, tuple[list[str], ...]] = {name: tuple([] for _ in lists) for name in classes}
    for place, (path, folder) in enumerate(lists):
        for image, label in _read_list(path):
            if label not in names:
                raise _unlike_published(path, f"{image} {label}")
            if names[label] in of_class:
                of_class[names[label]][place].append(f"{folder}/{image.lstrip('/')}")
    return {name: tuple(tuple(sorted(ids)) for ids in parts) for name, parts in of_class.items()}


def _read_list(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, label) for each line of a list of Places365."""
    for line in read_lines(path, "a list of Places365", _LAYOUT):
        name, _, label = line.rpartition(" ")
        if not name or not label.isdigit():
            raise _unlike_published(path, line)
        yield name, label


def _unlike_published(path: Path, line: str) -> ConfigError:
    return ConfigError(
        f"{path}: expected lines of a name and a number, such as `/a/airfield/00000001.jpg 0`, found "
        f"{line[:80]!a}; unpack the published list again"
    )
