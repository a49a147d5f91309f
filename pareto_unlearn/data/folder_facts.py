"""What lies in the folders of a sweep's images, and what of it the sweep does not use, in words."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pareto_unlearn.config import DataSection
from pareto_unlearn.data.image_sets import SplitData
from pareto_unlearn.data.listing import SUFFIXES, FileTree, is_folder, suffix_of
from pareto_unlearn.data.split import DATASETS, find_tree

_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Unused:
    """Files or classes that a sweep leaves alone: why, how many, and the names of the first."""

    reason: str
    count: int
    names: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFacts:
    """The images of a sweep. ``images`` counts those of each set and split, such as ``forget_train``.

    ``classes`` is the number of all classes of the data set, ``chosen`` of those with images in a set;
    ``linked_out`` counts images to which links lead out of ``data.root``.
    """

    layout: str
    classes: int
    chosen: int
    images: Mapping[str, int]
    linked_out: int
    unused: Sequence[Unused]


def look_at_pictures(config: DataSection, split: SplitData) -> PictureFacts:
    """Return what a sweep uses of its data set, and what lies beside that.

    Raises:
        ConfigError: files are no longer where the layout expects them.
    """
    images = {f"{name}_{part}": len(one) for name, part, one in split.items()}
    chosen = {name for _, _, one in split.items() for name in one.class_names}
    if config.root is None:
        whole = len(DATASETS[config.dataset]().class_names) if config.dataset in DATASETS else len(chosen)
        return PictureFacts(
            layout=config.dataset, classes=whole, chosen=len(chosen), images=images, linked_out=0, unused=[]
        )
    tree = find_tree(config)
    taken = {image_id for _, _, one in split.items() for image_id in one.image_ids}
    return PictureFacts(
        layout=tree.layout,
        classes=len(tree.class_names),
        chosen=len(chosen),
        images=images,
        linked_out=_count_linked_out(tree.root, taken) if config.follow_links else 0,
        unused=[one for one in _find_unused(tree, chosen, taken) if one.count],
    )


def describe_pictures(facts: PictureFacts) -> list[str]:
    """Return what a sweep uses of its data set in a few lines."""
    forget, retain = (
        f"{facts.images[f'{name}_train']:,} + {facts.images[f'{name}_heldout']:,}"
        for name in ("forget", "retain")
    )
    lines = [
        f"{facts.layout}; {facts.chosen} of {facts.classes} classes; to forget {forget}, to keep {retain} "
        "images (training + held-out)"
    ]
    if facts.linked_out:
        lines.append(f"{facts.linked_out:,} images lie behind links that lead out of data.root")
    return lines + [f"not used: {one.reason}: {one.count:,} ({_few(one)})" for one in facts.unused]


def _few(unused: Unused) -> str:
    return ", ".join(unused.names) + (", ..." if unused.count > len(unused.names) else "")


def _find_unused(tree: FileTree, chosen: set[str], taken: set[str]) -> Iterator[Unused]:
    yield _unused("classes in no set", [name for name in tree.class_names if name not in chosen])
    members = tree.list_images([name for name in tree.class_names if name in chosen])
    listed = [one for ids in members.values() for one in (*ids.train, *ids.heldout)]
    yield _unused(
        "images of these classes that the limits leave out", [one for one in listed if one not in taken]
    )
    folders = sorted({os.path.dirname(image_id) for image_id in listed})  # noqa: PTH120 - ids are no paths
    beside = [name for folder in folders for name in _files_in(tree.root, folder)]
    hidden = [name for name in beside if name.rpartition("/")[2].startswith(".")]
    other = [name for name in beside if name not in set(hidden) and suffix_of(name) not in SUFFIXES]
    yield _unused("hidden files", hidden)
    kinds = Counter(suffix_of(name) or "without ending" for name in other)
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())[:_SHOWN])
    yield _unused(f"files that are no images ({said})", other)
    yield from _find_around(tree, listed)


def _find_around(tree: FileTree, listed: Sequence[str]) -> Iterator[Unused]:
    """Yield what lies in the root itself, beside the folders that hold the classes."""
    known = {image_id.partition("/")[0] for image_id in listed} | set(tree.class_names)
    with os.scandir(tree.root) as entries:
        around = [one for one in entries if one.name not in known and not one.name.startswith(".")]
    yield _unused("folders beside these", [f"{one.name}/" for one in around if is_folder(one)])
    loose = [one.name for one in around if not is_folder(one) and suffix_of(one.name) in SUFFIXES]
    yield _unused("images outside the folders of classes", loose)


def _files_in(root: Path, folder: str) -> list[str]:
    with os.scandir(root / folder) as entries:
        return [f"{folder}/{entry.name}" for entry in entries if not is_folder(entry)]


def _unused(reason: str, names: Sequence[str]) -> Unused:
    return Unused(reason=reason, count=len(names), names=sorted(names)[:_SHOWN])


def _count_linked_out(root: Path, image_ids: set[str]) -> int:
    inside = root.resolve()
    return sum(not (root / image_id).resolve().is_relative_to(inside) for image_id in image_ids)
