"""Finds data sets of image files on disk, each by the layout of its folders.

A layout lists names only and opens no image. Names are sorted, so the order of the file system never matters.
"""

import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pareto_unlearn.data.sources import Members, hold_out
from pareto_unlearn.errors import ConfigError

SUFFIXES = frozenset(
    {
        ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff",
        ".webp",
    }
)  # fmt: skip
"""The suffixes of image files. Other files in a class's folder are ignored, and so are hidden files."""
UNREAD_SUFFIXES = frozenset(
    {".dng", ".heic", ".heif", ".jp2", ".jxl", ".nef", ".psd", ".raw", ".svg", ".tga"}
)
"""Of pictures that are not read. In a class's folder they are no oversight to be silent about."""
HELDOUT_FOLDERS = ("val", "valid", "validation", "test")
"""In any case; the first that is there beside ``train``."""

_FOLDER_LAYOUT = (
    "<root>/<class>/<image>, or <root>/train/<class>/<image> and <root>/val/<class>/<image> (or valid, "
    "validation or test)"
)
_IMAGENET_LAYOUT = (
    "<root>/train/<wnid>/<image>.JPEG and <root>/val/<wnid>/<image>.JPEG; where all validation images lie in "
    "one folder, sort them into a folder per wnid first"
)
_PLACES_LAYOUT = (
    "<root>/data_256/<letter>/<class>/<image>.jpg (or data_256_standard), <root>/val_256/<image>.jpg, and "
    "the lists categories_places365.txt, places365_train_standard.txt and places365_val.txt in <root>"
)


@dataclass(frozen=True, slots=True)
class FileTree:
    """A data set on disk; image ids are paths relative to ``root``, with forward slashes."""

    root: Path
    class_names: tuple[str, ...]
    list_images: Callable[[Sequence[str]], Mapping[str, Members]]


def find_folder(root: Path) -> FileTree:
    """Return a data set with one folder per class; folders train and val, where both exist, are its split.

    Raises:
        ConfigError: there are no folders of classes.
    """
    folders = {name.lower(): name for name in reversed(_list_classes(root, _FOLDER_LAYOUT))}
    heldout = next((folders[name] for name in HELDOUT_FOLDERS if name in folders), None)
    if "train" in folders and heldout is not None:
        return _find_split_folders(root, _FOLDER_LAYOUT, folders["train"], heldout)
    return FileTree(root, _list_classes(root, _FOLDER_LAYOUT), partial(_list_whole_classes, root))


def find_imagenet(root: Path) -> FileTree:
    """Return ImageNet, with the wnids as names of the classes.

    Raises:
        ConfigError: the folder train or val is missing.
    """
    return _find_split_folders(root, _IMAGENET_LAYOUT)


def find_places365(root: Path) -> FileTree:
    """Return Places365-Standard at 256 pixels, with classes such as ``/a/airfield``.

    Its folders may have the names that its archives unpack to, or those that torchvision gives them.

    Raises:
        ConfigError: a list or a folder is missing, or a list is not as published.
    """
    train = next((name for name in ("data_256", "data_256_standard") if (root / name).is_dir()), None)
    if train is None or not (root / "val_256").is_dir():
        missing = "val_256" if train else "data_256"
        raise _misplaced(f"a folder {missing}", root, _PLACES_LAYOUT)
    lines = _read_list(root / "categories_places365.txt")
    names = {label: name for name, label in lines}
    return FileTree(root, tuple(names.values()), partial(_list_places, root, train, names))


LAYOUTS: dict[str, Callable[[Path], FileTree]] = {
    "folder": find_folder,
    "imagenet": find_imagenet,
    "places365": find_places365,
}


def _find_split_folders(root: Path, layout: str, train: str = "train", heldout: str = "val") -> FileTree:
    names = _list_classes(root / train, layout)
    return FileTree(root, names, partial(_list_split_classes, root, layout, train, heldout))


def _list_whole_classes(root: Path, classes: Sequence[str]) -> Mapping[str, Members]:
    return {name: hold_out(_list_files(root, name, _FOLDER_LAYOUT)) for name in classes}


def _list_split_classes(
    root: Path, layout: str, train: str, heldout: str, classes: Sequence[str]
) -> Mapping[str, Members]:
    return {
        name: Members(
            train=_list_files(root, f"{train}/{name}", layout),
            heldout=_list_files(root, f"{heldout}/{name}", layout),
        )
        for name in classes
    }


def _list_classes(folder: Path, layout: str) -> tuple[str, ...]:
    entries = _scan(folder, "a folder of classes", layout)
    # What no sweep file can name is no class of it.
    names = sorted(entry.name for entry in entries if entry.is_dir() and _is_writable(entry.name))
    if not names:
        raise _misplaced("one folder per class", folder, layout)
    return tuple(names)


def _list_files(root: Path, relative: str, layout: str) -> tuple[str, ...]:
    folder = root / relative
    entries = _scan(folder, "a folder of images", layout)
    names = sorted(entry.name for entry in entries if not entry.is_dir() and _suffix(entry.name) in SUFFIXES)
    _require_all_used(folder, entries)
    if not names:
        raise _misplaced(f"image files ({', '.join(sorted(SUFFIXES))})", folder, layout)
    odd = [name for name in names if not _is_writable(name)]
    if odd:
        raise ConfigError(
            f"{folder}: expected names that are text without control characters, found {odd[0]!a}; rename it"
        )
    return tuple(f"{relative}/{name}" for name in names)


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _is_writable(name: str) -> bool:
    """Return whether a name can stand in a table: no control characters, no bytes that are no text."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)


def _require_all_used(folder: Path, entries: Sequence[os.DirEntry[str]]) -> None:
    """Refuse pictures of a chosen class that would be left out: nobody would notice."""
    inside = [entry.name for entry in entries if entry.is_dir() and _count_pictures(Path(entry.path))]
    unread = sorted(entry.name for entry in entries if _suffix(entry.name) in UNREAD_SUFFIXES)
    if inside:
        count = sum(_count_pictures(folder / name) for name in inside)
        raise ConfigError(
            f"{folder}: {count} image files lie in folders inside it ({', '.join(sorted(inside)[:3])}) and "
            "would not be used; move them into the folder of the class, or remove them"
        )
    if unread:
        raise ConfigError(
            f"{folder}: {len(unread)} pictures are of a kind that is not read and would not be used, the "
            f"first {unread[0]!a}; convert them to JPEG or PNG, or remove them"
        )


def _count_pictures(folder: Path) -> int:
    known = SUFFIXES | UNREAD_SUFFIXES
    return sum(_suffix(name) in known for _, _, names in os.walk(folder) for name in names)


def _scan(folder: Path, wanted: str, layout: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder without the hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise _misplaced(wanted, folder, layout, error.strerror) from error


def _list_places(
    root: Path, train: str, names: Mapping[str, str], classes: Sequence[str]
) -> Mapping[str, Members]:
    lists = (("places365_train_standard.txt", train), ("places365_val.txt", "val_256"))
    of_class: dict[str, tuple[list[str], ...]] = {name: ([], []) for name in classes}
    for split, (list_name, folder) in enumerate(lists):
        for path, label in _read_list(root / list_name):
            if label not in names:
                raise _unlike_published(root / list_name, f"{path} {label}")
            if names[label] in of_class:
                of_class[names[label]][split].append(f"{folder}/{path.lstrip('/')}")
    return {
        name: Members(train=tuple(sorted(ids)), heldout=tuple(sorted(heldout)))
        for name, (ids, heldout) in of_class.items()
    }


def _read_list(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, label) for each line of a list of Places365."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        trouble = error.strerror if isinstance(error, OSError) else str(error)
        raise _misplaced("a list of Places365", path, _PLACES_LAYOUT, trouble) from error
    for line in text.splitlines():
        name, _, label = line.rpartition(" ")
        if not name or not label.isdigit():
            raise _unlike_published(path, line)
        yield name, label


def _unlike_published(path: Path, line: str) -> ConfigError:
    return ConfigError(
        f"{path}: expected lines of a name and a number, such as `/a/airfield/00000001.jpg 0`, found "
        f"{line[:80]!a}; unpack the published list again"
    )


def _misplaced(wanted: str, path: Path, layout: str, trouble: str | None = None) -> ConfigError:
    return ConfigError(
        f"data.root: expected {wanted} at {path}, found {trouble or 'none'}; the layout is {layout}"
    )
