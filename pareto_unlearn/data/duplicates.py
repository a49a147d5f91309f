"""Images with the same bytes in two sets or splits: what is forgotten would be retained, what is held out trained on."""

import logging
from collections.abc import Mapping

from pareto_unlearn.data.choice import Choice
from pareto_unlearn.data.image_sets import SplitData
from pareto_unlearn.data.sources import Source
from pareto_unlearn.errors import ConfigError

_SHOWN_PAIRS = 3
_logger = logging.getLogger(__name__)


def check_duplicates(split: SplitData, policy: str) -> None:
    """Look for images with the same digest in two sets or splits; image files are read from end to end for it.

    Args:
        split: the images.
        policy: ``allow`` says in the log what was found; anything else refuses it.

    Raises:
        ConfigError: how many there are, and the first pairs.
    """
    pairs = _find_duplicates(split)
    if not pairs:
        return
    rest = len(pairs) - _SHOWN_PAIRS
    shown = "; ".join([*pairs[:_SHOWN_PAIRS], *([f"and {rest} more"] if rest > 0 else [])])
    if policy == "allow":
        _logger.warning("data: %d images have the same bytes in two sets or splits: %s", len(pairs), shown)
        return
    remedy = "data.duplicates: drop_heldout, or allow" if policy == "refuse" else "data.duplicates: allow"
    raise ConfigError(
        f"data: expected every image in one set and split only, found {len(pairs)} with the same bytes (SHA-256) in two: {shown}. "
        f"Remove them, or set {remedy}"
    )


def drop_heldout_copies(chosen: Mapping[str, Choice], source: Source) -> dict[str, Choice]:
    """Leave out the held-out images whose bytes are in another set or split too.

    Files are read only where another one has the same size, so every worker can do it.

    Raises:
        ConfigError: it leaves a set without held-out images, or a file cannot be read.
    """
    identities = iter(source.identify([i for choice in chosen.values() for i in choice.image_ids]))
    own = {name: [next(identities) for _ in choice.image_ids] for name, choice in chosen.items()}
    homes: dict[str, set[str]] = {}
    for name, values in own.items():
        for value in values:
            homes.setdefault(value, set()).add(name)
    kept = dict(chosen)
    for name in (name for name in chosen if name.endswith("heldout")):
        rows = [row for row, value in enumerate(own[name]) if len(homes[value]) == 1]
        kept[name] = _keep(chosen[name], rows, name)
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
    """Describe every image that an earlier set or split has too, with the first such one."""
    first: dict[str, tuple[str, str]] = {}
    pairs = []
    for name, part, images in split.items():
        here = f"{name} {part}"
        for image_id, digest in zip(images.image_ids, images.sha256, strict=True):
            other_id, home = first.setdefault(digest, (image_id, here))
            if home != here:
                pairs.append(f"{other_id} ({home}) = {image_id} ({here})")
    return pairs
