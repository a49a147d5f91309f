"""What all layouts of image folders share: which files are images, how folders are listed, what is refused.

Names only: no image is opened. Names are sorted, so the order of the file system never matters.
"""

import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pareto_unlearn.data.sources import Members
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


@dataclass(frozen=True, slots=True)
class FileTree:
    """A data set on disk; image ids are paths relative to ``root``, with forward slashes.

    ``layout`` says in a few words which of the layouts was found.
    """

    root: Path
    class_names: tuple[str, ...]
    list_images: Callable[[Sequence[str]], Mapping[str, Members]]
    layout: str


def find_split_folders(root: Path, layout: str, train: str, heldout: str, words: str) -> FileTree:
    """Return a data set of two folders, each with a folder per class; ``words`` name its layout."""
    names = list_classes(root / train, layout)
    return FileTree(root, names, partial(_list_split_classes, root, layout, train, heldout), words)


def split_folders(folder: Path) -> tuple[str, str] | None:
    """Return the names of the folders of training and held-out images, None where either is missing."""
    try:
        with os.scandir(folder) as entries:
            present = sorted((entry for entry in entries if is_folder(entry)), key=_name, reverse=True)
            folders = {entry.name.lower(): entry.name for entry in present}
    except OSError:
        return None  # who lists the classes says why
    heldout = next((folders[name] for name in HELDOUT_FOLDERS if name in folders), None)
    return (folders["train"], heldout) if "train" in folders and heldout is not None else None


def list_classes(folder: Path, layout: str) -> tuple[str, ...]:
    """Return the names of the folders in a folder.

    Raises:
        ConfigError: there is none.
    """
    entries = scan(folder, "a folder of classes", layout)
    # What no sweep file can name is no class of it.
    classes = sorted((entry for entry in entries if is_folder(entry) and _is_writable(entry.name)), key=_name)
    if not classes:
        raise misplaced("one folder per class", folder, layout)
    return tuple(entry.name for entry in classes)


def list_files(root: Path, relative: str, layout: str) -> tuple[str, ...]:
    """Return the ids of the images in a folder of a chosen class.

    Raises:
        ConfigError: there is none, some picture would be left out, or the folder is a link to one around it.
    """
    folder = root / relative
    if folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{folder}: expected a folder of images, found a link that leads back to a folder around it; "
            "remove the link"
        )
    entries = scan(folder, "a folder of images", layout)
    names = sorted(
        entry.name for entry in entries if not is_folder(entry) and suffix_of(entry.name) in SUFFIXES
    )
    _require_all_used(folder, entries)
    if not names:
        raise misplaced(f"image files ({', '.join(sorted(SUFFIXES))})", folder, layout)
    odd = [name for name in names if not _is_writable(name)]
    if odd:
        raise ConfigError(
            f"{folder}: expected names that are text without control characters, found {odd[0]!a}; rename it"
        )
    return tuple(f"{relative}/{name}" for name in names)


def scan(folder: Path, wanted: str, layout: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder without the hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise misplaced(wanted, folder, layout, error.strerror) from error


def read_lines(path: Path, wanted: str, layout: str) -> list[str]:
    """Return the lines of a published list.

    Raises:
        ConfigError: there is no such file, or it is no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        trouble = error.strerror if isinstance(error, OSError) else str(error)
        raise misplaced(wanted, path, layout, trouble) from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def suffix_of(name: str) -> str:
    """Return the suffix of a file's name in lower case, with its dot."""
    return Path(name).suffix.lower()


def misplaced(wanted: str, path: Path, layout: str, trouble: str | None = None) -> ConfigError:
    """Return the error about something that is not where the layout has it."""
    return ConfigError(
        f"data.root: expected {wanted} at {path}, found {trouble or 'none'}; the layout is {layout}"
    )


def _list_split_classes(
    root: Path, layout: str, train: str, heldout: str, classes: Sequence[str]
) -> Mapping[str, Members]:
    return {
        name: Members(
            train=list_files(root, f"{train}/{name}", layout),
            heldout=list_files(root, f"{heldout}/{name}", layout),
        )
        for name in classes
    }


def _is_writable(name: str) -> bool:
    """Return whether a name can stand in a table: no control characters, no bytes that are no text."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)


def _require_all_used(folder: Path, entries: Sequence[os.DirEntry[str]]) -> None:
    """Refuse pictures of a chosen class that would be left out: nobody would notice."""
    inside = [entry.name for entry in entries if is_folder(entry) and _count_pictures(Path(entry.path))]
    unread = sorted(entry.name for entry in entries if suffix_of(entry.name) in UNREAD_SUFFIXES)
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
    return sum(suffix_of(name) in known for _, _, names in os.walk(folder) for name in names)


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name
