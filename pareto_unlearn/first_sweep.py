"""Writes a first sweep file for what is found in a folder of pictures: commented, and valid as it stands.

Pictures are only looked at: names, and the sizes in their headers. Nothing here loads a model.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median

from pareto_unlearn.catalogue.families import FAMILIES
from pareto_unlearn.data import find_folder, read_size
from pareto_unlearn.errors import ConfigError

_MEASURED = 500
"""Pictures whose header is read, spread evenly over the folder."""

_SMALL_SIDE, _LARGEST_SMALL = 32, 48
_USUAL_SIDE, _LARGEST_USUAL = 64, 96
_LEAST_OF_FORGOTTEN = 3
_SHOWN_CLASSES = 30


class Kind(StrEnum):
    """What a first sweep file is for: pictures of one's own with the model that suits them, or a family."""

    FOLDER = "folder"
    MAE = "mae"
    MAGE = "mage"
    PALETTE = "palette"
    DIGITS = "digits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What lies in a folder of pictures. ``classes`` has the number of pictures, all splits together.

    ``widths``, ``heights`` and ``channels`` are those of the pictures that were measured.
    """

    root: Path
    classes: Mapping[str, int]
    num_heldout: int
    widths: Sequence[int]
    heights: Sequence[int]
    channels: Sequence[int]

    @property
    def num_images(self) -> int:
        """All pictures of all classes."""
        return sum(self.classes.values())

    @property
    def short_side(self) -> int:
        """The median of the shorter sides, in pixels."""
        return int(median(min(size) for size in zip(self.widths, self.heights, strict=True)))

    def describe(self) -> str:
        """Return in a line what was found."""
        sizes = f"{_range(self.widths)} x {_range(self.heights)} pixels"
        gray = sum(one == 1 for one in self.channels)
        colour = "gray" if gray == len(self.channels) else "colour" if not gray else "gray and colour"
        return (
            f"{self.num_images} pictures ({self.num_heldout} of them held out) in {len(self.classes)} "
            f"folders, {sizes}, {colour}"
        )


def look_at(root: Path) -> Found:
    """Return what a folder of pictures holds: a folder per class, or train and val with such folders.

    Raises:
        ConfigError: there are no folders of pictures, or a picture cannot be opened.
    """
    _refuse_loose_pictures(root)
    tree = find_folder(root.expanduser())
    members = tree.list_images(tree.class_names)
    every = [image_id for one in members.values() for image_id in (*one.train, *one.heldout)]
    step = max(len(every) // _MEASURED, 1)
    sizes = [read_size(tree.root / image_id) for image_id in every[::step]]
    return Found(
        root=root,
        classes={name: len(one.train) + len(one.heldout) for name, one in members.items()},
        num_heldout=sum(len(one.heldout) for one in members.values()),
        widths=[size.width for size in sizes],
        heights=[size.height for size in sizes],
        channels=[size.channels for size in sizes],
    )


def sweep_name(kind: Kind, found: Found | None) -> str:
    """Return the name of a first sweep, that of the folder as far as a name may have its letters."""
    if found is None:
        return f"my-{kind}"
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", found.root.expanduser().resolve().name).strip("-_")
    return plain[:48] or "my-pictures"


def write_sweep(kind: Kind, name: str, found: Found | None, forget: str | None) -> str:
    """Return the text of a sweep file.

    Args:
        kind: which model.
        name: of the sweep.
        found: the pictures; None: the digits' own, or for a published model a folder to be filled in.
        forget: the class to forget, or a file that names single pictures; None: the first class.

    Raises:
        ConfigError: there is no such class, or too few pictures.
    """
    if kind is Kind.DIGITS:
        return _DIGITS.format(name=name)
    data = _data_section(found, forget)
    if kind in (Kind.FOLDER, Kind.MAE) and found is not None:
        return _SMALL.format(name=name, data=data, command=f"init {kind} {found.root}", **_sizes(found))
    return _PUBLISHED.format(name=name, data=data, family=kind, kind=kind, **_published(kind))


def _data_section(found: Found | None, forget: str | None) -> str:
    if found is None:
        return _NO_FOLDER
    lines = [
        "data:",
        f"  # {found.describe()}",
        "  dataset: folder",
        f"  root: {json.dumps(str(found.root), ensure_ascii=False)}",
        *_forget_lines(found, forget),
        "  duplicates: drop_heldout     # a held-out picture with the same bytes as another one is left out",
    ]
    return "\n".join(lines)


def _forget_lines(found: Found, forget: str | None) -> list[str]:
    names = list(found.classes)
    if forget is not None and forget not in names:
        if not Path(forget).expanduser().is_file():
            raise ConfigError(
                f"--forget: expected a folder of {found.root} or a file that names pictures, found "
                f"{forget!a}; the folders are {_shown(names)}"
            )
        named = json.dumps(forget, ensure_ascii=False)
        return [
            f"  forget: {named}   # paths relative to root, one a line; all other pictures are kept",
            "  same_class: retain           # the other pictures in the same folders; or leave_out",
        ]
    if len(names) == 1:
        raise ConfigError(
            f"{found.root}: expected at least two folders, one to forget and one to keep, found only "
            f"{names[0]}; name single pictures to forget in a text file (paths relative to {found.root}, one "
            "a line) and give it as --forget FILE"
        )
    chosen = forget or next((one for one in names if found.classes[one] >= _LEAST_OF_FORGOTTEN), names[0])
    if found.classes[chosen] < _LEAST_OF_FORGOTTEN:
        raise ConfigError(
            f"{found.root}: expected at least {_LEAST_OF_FORGOTTEN} pictures to forget, since a fifth is "
            f"held out, found {found.classes[chosen]} in {chosen}; add some, or choose a folder with "
            "--forget NAME"
        )
    counts = ", ".join(f"{one} ({found.classes[one]})" for one in names[:_SHOWN_CLASSES])
    more = f" and {len(names) - _SHOWN_CLASSES} more" if len(names) > _SHOWN_CLASSES else ""
    return [
        f"  # found: {counts}{more}",
        f"  forget_classes: [{json.dumps(chosen, ensure_ascii=False)}]   # WHO OR WHAT TO FORGET: change it; "
        "all others are kept",
        "  # for single pictures, in place of forget_classes:  forget: FILE, a path relative to root a line",
    ]


def _sizes(found: Found) -> dict[str, object]:
    small = found.short_side < _LARGEST_SMALL
    side = _SMALL_SIDE if small else _USUAL_SIDE
    hint = ""
    if found.short_side >= _LARGEST_USUAL:
        more = f"{_LARGEST_USUAL} and patch: {_LARGEST_USUAL // 8} show more, in about the same time"
        hint = f";\n{31 * ' '}# {more}"
    return {"side": side, "patch": side // 8, "short": found.short_side, "hint": hint}


def _published(kind: Kind) -> dict[str, str]:
    row = next(one for one in FAMILIES if one.name == kind)
    file, _, source = row.file.partition(" of ")
    first = re.split(r",| or | \(", file)[0]
    return {
        "variant": row.variants[0],
        "checkpoint": first,
        "source": source,
        "hole": "patches: 8" if row.patches else "size: 0.5",
    }


def _refuse_loose_pictures(root: Path) -> None:
    folder = root.expanduser()
    if not folder.is_dir():
        raise ConfigError(f"expected a folder of pictures, found none at {root}; check the path")
    entries = [one for one in folder.iterdir() if not one.name.startswith(".")]
    if entries and not any(one.is_dir() for one in entries):
        raise ConfigError(
            f"{root}: expected a folder per person or thing with its pictures in it, found {len(entries)} "
            "files and no folder; move the pictures that belong together into a folder of their own"
        )


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_CLASSES} more" if len(names) > _SHOWN_CLASSES else ""
    return ", ".join(names[:_SHOWN_CLASSES]) + more


_SMALL = """\
# Written by `pareto-unlearn {command}`. Next:
#   pareto-unlearn validate FILE    checks this file and every picture
#   pareto-unlearn train FILE       trains the model that is to forget, once: minutes on two cores
#   pareto-unlearn sweep FILE       makes the menu of models that have forgotten
name: {name}
seed: 0

model:
  family: mae                  # a masked autoencoder: it fills a hole in a picture
  variant: small               # 2.3 million parameters, trained on your own pictures
  side: {side}                     # pictures are resized to it; half of yours are {short} or more{hint}
  patch: {patch}                     # the model sees patches of so many pixels
  checkpoint: {name}.pth       # `train` writes it

{data}

task: {{kind: center, size: 0.5}}   # the hole: the central square, half a side wide

solver:
  steps: 100                   # of a trial; the path through all epsilons takes six times that
  batch: 16                    # pictures to forget and pictures to keep in a step, each

epsilon: {{schedule: grid, points: 5, spacing: geometric}}   # five models between the two ends

evaluate: {{protocol: builtin, metrics: [mse, psnr], samples_per_class: 2, max_samples: 40}}

# controls: [retrained]       # a model that never saw the pictures to forget, trained once more: without it
#                              # most attacks of `audit` have nothing to compare with

run: {{executor: tune, cpus_per_trial: 2, storage: runs}}
"""

_PUBLISHED = """\
# Written by `pareto-unlearn init {kind}`.
# `pareto-unlearn sweep FILE --smoke` tries it out without weights or pictures.
name: {name}
seed: 0

model:
  family: {family}
  variant: {variant}
  checkpoint: {checkpoint}   # the published file, of {source}

{data}

task: {{kind: center, {hole}}}

solver:
  steps: 400                   # of a trial; the path through all epsilons takes six times that
  batch: 16                    # pictures to forget and pictures to keep in a step, each

epsilon: {{schedule: grid, points: 5, spacing: geometric}}   # five models between the two ends

evaluate: {{protocol: builtin, metrics: [mse, psnr], samples_per_class: 2, max_samples: 40}}

run: {{executor: tune, cpus_per_trial: 4, gpus_per_trial: 1, storage: runs}}   # 0 without a GPU
"""

_NO_FOLDER = """\
data:
  dataset: folder
  root: pictures               # one folder per person or thing: pictures/<class>/<image>
  forget_classes: 1            # draws one; a list such as ["anna"] names them"""

_DIGITS = """\
# Written by `pareto-unlearn init digits`: the embedded model and images, nothing to train or to download.
name: {name}
seed: 0

model: {{family: digits_mae, checkpoint: builtin}}

data:
  dataset: digits              # scikit-learn's 1,797 handwritten digits
  forget_classes: [0, 1, 2, 3, 4]   # all others are kept

task: {{kind: center, size: 0.5}}   # the hole: the central square, half a side wide

solver:
  steps: 320                   # of a trial; the path through all epsilons takes six times that
  batch: 32                    # images to forget and images to keep in a step, each

epsilon: {{schedule: grid, points: 5, spacing: geometric}}   # five models between the two ends

evaluate: {{protocol: builtin, samples_per_class: 1}}

# controls: [retrained]       # a model that never saw the pictures to forget, trained once more: without it
#                              # most attacks of `audit` have nothing to compare with

run: {{executor: tune, cpus_per_trial: 1, storage: runs}}
"""
