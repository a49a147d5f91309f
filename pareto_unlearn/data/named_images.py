"""The choice that forgets single images by name (``data.forget``), such as one person's photos."""

import difflib
from collections.abc import Mapping, Sequence

from pareto_unlearn.config import DataSection
from pareto_unlearn.data.sources import Members, hold_out
from pareto_unlearn.data.spelling import as_stored
from pareto_unlearn.errors import ConfigError

_LARGEST_COMPARED = 20_000
_SHOWN = 3


def divide_named(
    config: DataSection, members: Mapping[str, Members]
) -> tuple[dict[str, Members], dict[str, Members]]:
    """Return the images to forget, and all others, by class; a class without any is left out.

    Args:
        config: ``forget`` names the images; ``forget_split`` says which of them are held out, and
            ``same_class`` what becomes of the other images of their classes.
        members: all images of the data set, by class.

    Raises:
        ConfigError: a name is unknown, nothing is left to retain, or no named image is in a split.
    """
    known = {image_id for one in members.values() for image_id in (*one.train, *one.heldout)}
    named = set(as_stored(config.forget or (), known))
    _check_known(named, known)
    forget = {name: _only(one, named) for name, one in members.items()}
    if config.forget_split == "named":
        forget = _divide_anew(forget)
    forget = {name: one for name, one in forget.items() if one.train or one.heldout}
    _check_both_splits(config, forget, members)
    rest = {
        name: Members(_without(one.train, named), _without(one.heldout, named))
        for name, one in members.items()
        if config.same_class == "retain" or name not in forget
    }
    rest = {name: one for name, one in rest.items() if one.train or one.heldout}
    if not rest:
        raise ConfigError(
            f"data.forget: expected images that are left to retain, found all {len(named)} images of the "
            "data set named or of the classes that are left out; name fewer"
        )
    return forget, rest


def _divide_anew(forget: Mapping[str, Members]) -> dict[str, Members]:
    """Return the named images with a fifth of all of them held out, by the rule for whole classes."""
    parts = hold_out([image_id for one in forget.values() for image_id in (*one.train, *one.heldout)])
    return {
        name: Members(
            tuple(sorted({*one.train, *one.heldout} & set(parts.train))),
            tuple(sorted({*one.train, *one.heldout} & set(parts.heldout))),
        )
        for name, one in forget.items()
    }


def _check_known(named: set[str], known: set[str]) -> None:
    unknown = sorted(named - known)
    if not unknown:
        return
    shown = ", ".join(unknown[:_SHOWN]) + (
        f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    )
    near = difflib.get_close_matches(unknown[0], known, n=1) if len(known) <= _LARGEST_COMPARED else []
    example = near or sorted(known)[:1]
    raise ConfigError(
        f"data.forget: expected images of the data set, as paths relative to data.root, found {len(unknown)} "
        f"that are not in it: {shown}; "
        + (f"did you mean {near[0]}?" if near else f"its images have names such as {example[0]}")
    )


def _check_both_splits(
    config: DataSection, forget: Mapping[str, Members], members: Mapping[str, Members]
) -> None:
    count = len(config.forget or ())
    if not any(one.heldout for one in forget.values()):
        raise ConfigError(_no_heldout(config, count, forget, members))
    if not any(one.train for one in forget.values()):
        raise ConfigError(
            f"data.forget: expected named images to train on, found all {count} in the held-out split of the "
            "data set; name images of its training split too, or set data.forget_split: named"
        )


def _no_heldout(
    config: DataSection, count: int, forget: Mapping[str, Members], members: Mapping[str, Members]
) -> str:
    wanted = "data.forget: expected named images that are held out, to see whether the person or thing is "
    wanted += f"forgotten in pictures that were not trained on; found none among {count}"
    if config.forget_split == "named":
        return f"{wanted}: a fifth of them is held out, which takes at least three"
    nearby = [image_id for name in forget for image_id in members[name].heldout][:_SHOWN]
    others = f"name some that the data set holds out too, such as {', '.join(nearby)}; or " if nearby else ""
    return (
        f"{wanted}; {others}set data.forget_split: named, which holds out a fifth of the named images (then "
        "train the original from this sweep file, so that it does not know them)"
    )


def _only(members: Members, named: set[str]) -> Members:
    return Members(
        tuple(one for one in members.train if one in named),
        tuple(one for one in members.heldout if one in named),
    )


def _without(image_ids: Sequence[str], named: set[str]) -> tuple[str, ...]:
    return tuple(one for one in image_ids if one not in named)
