"""Finds images with the same bytes in two sets or splits.

Such an image would be both forgotten and retained, or both held out and trained on.
"""

import logging
from collections.abc import Mapping

from pareto_unlearn.data.choice import Choice
from pareto_unlearn.data.image_sets import SplitData
from pareto_unlearn.data.sources import Source
from pareto_unlearn.errors import ConfigError

_SHOWN_PAIRS = 3
_logger = logging.getLogger(__name__)


def check_duplicates(split: SplitData, policy: str) -> None:
    """Refuse images with the same digest in two sets or splits; image files are read whole for this.

    Args:
        split: the images.
        policy: ``allow`` logs a warning; every other value raises the error.

    Raises:
        ConfigError: gives the number of such images, and the first pairs.
    """
    pairs = _find_duplicates(split)
    if not pairs:
        return
    shown = "; ".join(pairs[:_SHOWN_PAIRS])
    if len(pairs) > _SHOWN_PAIRS:
        shown += f"; and {len(pairs) - _SHOWN_PAIRS} more"
    if policy == "allow":
        _logger.warning("data: %d images have the same bytes in two sets or splits: %s", len(pairs), shown)
        return
    remedy = "data.duplicates: drop_heldout, or allow" if policy == "refuse" else "data.duplicates: allow"
    raise ConfigError(
        f"data: expected every image in one set and split only, found {len(pairs)} with the same bytes "
        f"(SHA-256) in two: {shown}. Remove them, or set {remedy}"
    )


def drop_heldout_copies(chosen: Mapping[str, Choice], source: Source) -> dict[str, Choice]:
    """Return the chosen images without the held-out ones whose bytes are in another set or split too.

    A file is read only where another file has the same size, which is cheap enough for every worker to do.

    Raises:
        ConfigError: a set is left without held-out images, or a file cannot be read.
    """
    identities = iter(source.identify([i for choice in chosen.values() for i in choice.image_ids]))
    own = {name: [next(identities) for _ in choice.image_ids] for name, choice in chosen.items()}
    homes: dict[str, set[str]] = {}
    for name, values in own.items():
        for value in values:
            homes.setdefault(value, set()).add(name)
    kept = dict(chosen)
    for name, choice in chosen.items():
        if name.endswith("heldout"):
            rows = [row for row, value in enumerate(own[name]) if len(homes[value]) == 1]
            kept[name] = _keep(choice, rows, name)
    return kept


def _keep(choice: Choice, rows: list[int], name: str) -> Choice:
    dropped = len(choice.image_ids) - len(rows)
    if dropped == 0:
        return choice
    if not rows:
        raise ConfigError(
            f"data.duplicates: drop_heldout leaves no image in {name}: all {dropped} are copies"
        )
    _logger.warning("data: dropped %d images of %s, whose bytes are in another set too", dropped, name)
    return choice._replace(
        image_ids=tuple(choice.image_ids[row] for row in rows),
        class_ids=tuple(choice.class_ids[row] for row in rows),
    )


def _find_duplicates(split: SplitData) -> list[str]:
    """Return one text per image that is in an earlier set or split too, naming its first occurrence there."""
    first: dict[str, tuple[str, str]] = {}
    pairs = []
    for name, part, images in split.items():
        here = f"{name} {part}"
        for image_id, digest in zip(images.image_ids, images.sha256, strict=True):
            other_id, home = first.setdefault(digest, (image_id, here))
            if home != here:
                pairs.append(f"{other_id} ({home}) = {image_id} ({here})")
    return pairs
