"""Finds data sets of image files on disk, each by the layout of its folders."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from pareto_unlearn.data.imagenet_layouts import find_imagenet, find_tiny_imagenet, is_tiny_imagenet
from pareto_unlearn.data.listing import FileTree, find_split_folders, list_classes, list_files, split_folders
from pareto_unlearn.data.places_layouts import find_places365
from pareto_unlearn.data.sources import Members, hold_out

_FOLDER_LAYOUT = (
    "<root>/<class>/<image>, or <root>/train/<class>/<image> and <root>/val/<class>/<image> (or valid, "
    "validation or test)"
)


def find_folder(root: Path) -> FileTree:
    """Return a data set with one folder per class; folders train and val, where both exist, are its split.

    Raises:
        ConfigError: there are no folders of classes.
    """
    if is_tiny_imagenet(root):
        return find_tiny_imagenet(root)
    if (split := split_folders(root)) is not None:
        train, heldout = split
        words = f"folders {train} and {heldout}, a folder per class in each"
        return find_split_folders(root, _FOLDER_LAYOUT, train, heldout, words)
    classes = list_classes(root, _FOLDER_LAYOUT)
    words = "a folder per class, a fifth of each held out"
    return FileTree(root, classes, partial(_list_whole_classes, root), words)


LAYOUTS: dict[str, Callable[[Path], FileTree]] = {
    "folder": find_folder,
    "imagenet": find_imagenet,
    "places365": find_places365,
}


def _list_whole_classes(root: Path, classes: Sequence[str]) -> Mapping[str, Members]:
    return {name: hold_out(list_files(root, name, _FOLDER_LAYOUT)) for name in classes}
