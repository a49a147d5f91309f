"""Choice of the images of each set and split, by names alone: no image file is opened here."""

import difflib
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from pareto_unlearn.config import DataSection
from pareto_unlearn.data.class_lists import read_class_list
from pareto_unlearn.data.named_images import divide_named
from pareto_unlearn.data.order import seeded_generator
from pareto_unlearn.data.sources import Members, Source
from pareto_unlearn.data.spelling import as_stored
from pareto_unlearn.errors import ConfigError

_SHOWN_CLASSES = 20


class ClassChoice(NamedTuple):
    """The classes of a sweep, in the data set's order.

    ``trained`` are the classes whose images are trained on to retain: the proxy's, or ``retain`` itself.
    """

    forget: tuple[str, ...]
    retain: tuple[str, ...]
    trained: tuple[str, ...]


class Choice(NamedTuple):
    """The images of one set and split, sorted by id; ``class_ids`` are positions in ``classes``."""

    classes: tuple[str, ...]
    image_ids: tuple[str, ...]
    class_ids: tuple[int, ...]


def choose_images(config: DataSection, source: Source, seed: int) -> dict[str, Choice]:
    """Return the images of all sets and splits, keyed by names such as ``forget_train``.

    The training sets come first: they are read most often, and the sets opened first are cached first.

    Raises:
        ConfigError: an unknown class, an overlap, too few images, or files that are not where the data set's
            layout expects them.
    """
    if config.split == "random_images":
        chosen = _choose_random_images(config, source, seed)
    elif config.forget is not None:
        chosen = _choose_named_images(config, source, seed)
    else:
        chosen = _choose_by_class(config, source, seed)
    for name, choice in chosen.items():
        if not choice.image_ids:
            raise ConfigError(
                f"data: expected images in every set and split, found none in {name}: a fifth of a class is "
                "held out, so some class of each set needs at least three images"
            )
    _check_disjoint(chosen)
    return chosen


def choose_classes(config: DataSection, known: Sequence[str], seed: int) -> ClassChoice:
    """Return the classes to forget, to retain, and to train on in order to retain.

    Raises:
        ConfigError: a class is unknown or the numbers do not fit.
    """
    if config.class_list is None or config.class_rule is None:
        forget, retain = _choose_two(config, known, seed)
    else:
        listed = read_class_list(Path(config.class_list).expanduser(), config.class_rule)
        forget, retain = (_named_or_drawn("data.class_list", names, known, seed) for names in listed)
    trained = retain if config.proxy_retain is None else _draw_proxy(config, known, (*forget, *retain), seed)
    return ClassChoice(forget, retain, trained)


def choose_bystanders(config: DataSection, source: Source, seed: int, most: int) -> Choice | None:
    """Return held-out images of classes that are neither forgotten nor kept, at most about ``most`` in all.

    None where there are no such classes. As many classes as images are listed at most.
    """
    if config.split == "random_images" or config.forget is not None:
        return None
    choice = choose_classes(config, source.class_names, seed)
    taken = {*choice.forget, *choice.retain, *choice.trained}
    others = tuple(name for name in source.class_names if name not in taken)[:most]
    if not others:
        return None
    share = math.ceil(most / len(others))
    limit = min(share, config.heldout_per_class or share)
    found = _take(source.list_images(others), others, "heldout", limit)
    return found if found.image_ids else None


def _choose_two(
    config: DataSection, known: Sequence[str], seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    # Never None here: without a list of classes the section requires forget_classes.
    forget = _named_or_drawn("data.forget_classes", config.forget_classes or (), known, seed)
    rest = [name for name in known if name not in forget]
    if not rest:
        raise ConfigError(
            f"data.forget_classes: found all {len(known)} classes; leave at least one to retain"
        )
    wanted = len(rest) if config.retain_classes is None else config.retain_classes
    pool = rest if isinstance(wanted, int) else known
    retain = _named_or_drawn("data.retain_classes", wanted, pool, seed + 1)
    overlap = sorted(set(forget) & set(retain))
    if overlap:
        raise ConfigError(f"data: classes {', '.join(overlap)} are in both forget_classes and retain_classes")
    return forget, retain


def _draw_proxy(
    config: DataSection, known: Sequence[str], taken: Sequence[str], seed: int
) -> tuple[str, ...]:
    pool = [name for name in known if name not in set(taken)]
    if not pool:
        raise ConfigError(
            "data.proxy_retain: expected classes that are neither forgotten nor retained, found all "
            f"{len(known)} in use; name fewer in data.retain_classes"
        )
    wanted = config.proxy_retain.classes if config.proxy_retain is not None else None
    return _named_or_drawn("data.proxy_retain.classes", wanted or len(pool), pool, seed + 2)


def _choose_by_class(config: DataSection, source: Source, seed: int) -> dict[str, Choice]:
    forget, retain, trained = choose_classes(config, source.class_names, seed)
    members = source.list_images(tuple(dict.fromkeys((*forget, *retain, *trained))))
    forget_train = _take(members, forget, "train", config.train_per_class, "data.train_per_class")
    return {
        "forget_train": forget_train,
        "retain_train": _take_retain(config, members, trained, len(forget_train.image_ids)),
        "forget_heldout": _take_heldout(config, members, forget),
        "retain_heldout": _take_heldout(config, members, retain),
    }


def _take_heldout(config: DataSection, members: Mapping[str, Members], classes: Sequence[str]) -> Choice:
    return _take(members, classes, "heldout", config.heldout_per_class, "data.heldout_per_class")


def _take_retain(
    config: DataSection, members: Mapping[str, Members], classes: Sequence[str], forget_images: int
) -> Choice:
    """Return the images trained on to retain: the proxy's, or else the retain classes' own."""
    proxy = config.proxy_retain
    if proxy is None and config.retain_per_class is None:
        return _take(members, classes, "train", config.train_per_class, "data.train_per_class")
    if proxy is None:
        return _take(members, classes, "train", config.retain_per_class, "data.retain_per_class")
    if proxy.per_class is not None:
        return _take(members, classes, "train", proxy.per_class, "data.proxy_retain.per_class")
    return _take(members, classes, "train", math.ceil(forget_images / len(classes)))


def _choose_random_images(config: DataSection, source: Source, seed: int) -> dict[str, Choice]:
    """Return a choice that forgets a share of the images of each split, regardless of their classes."""
    names = source.class_names
    members, chosen = source.list_images(names), {}
    for split, limit in (("train", config.train_per_class), ("heldout", config.heldout_per_class)):
        whole = _take(members, names, split, limit, f"data.{split}_per_class")
        # Ranked by hashes of the ids: a generator's permutation would depend on the number of images.
        ranked = sorted(range(len(whole.image_ids)), key=lambda row: _rank(seed, whole.image_ids[row]))
        count = round((config.forget_share or 0.0) * len(ranked))
        chosen[f"forget_{split}"] = _part(whole, ranked[:count])
        chosen[f"retain_{split}"] = _part(whole, ranked[count:])
    return chosen


def _choose_named_images(config: DataSection, source: Source, seed: int) -> dict[str, Choice]:
    """Return a choice that forgets the named images; limits per class bound the retain set alone."""
    names = source.class_names
    forget, rest = divide_named(config, source.list_images(names))
    retain = tuple(name for name in names if name in rest)
    if config.retain_classes is not None:
        retain = _named_or_drawn("data.retain_classes", config.retain_classes, retain, seed + 1)
    limit = config.retain_per_class or config.train_per_class
    key = "data.train_per_class" if config.retain_per_class is None else "data.retain_per_class"
    return {
        "forget_train": _take(forget, tuple(forget), "train", None),
        "retain_train": _take(rest, retain, "train", limit, key),
        "forget_heldout": _take(forget, tuple(forget), "heldout", None),
        "retain_heldout": _take(rest, retain, "heldout", config.heldout_per_class, "data.heldout_per_class"),
    }


def _rank(seed: int, image_id: str) -> str:
    return hashlib.sha256(f"{seed} {image_id}".encode()).hexdigest()


def _part(whole: Choice, rows: Sequence[int]) -> Choice:
    """Return the images in ``rows``, with only the classes that these images have."""
    kept = sorted(rows)
    present = sorted({whole.class_ids[row] for row in kept})
    places = {class_id: place for place, class_id in enumerate(present)}
    return Choice(
        classes=tuple(whole.classes[class_id] for class_id in present),
        image_ids=tuple(whole.image_ids[row] for row in kept),
        class_ids=tuple(places[whole.class_ids[row]] for row in kept),
    )


def _take(
    members: Mapping[str, Members], classes: Sequence[str], split: str, limit: int | None, key: str = ""
) -> Choice:
    """Return the first ``limit`` images of each class by id; all of its images where ``limit`` is None.

    A class with fewer images is an error that names ``key``; without a key, all its images are taken.
    """
    chosen: list[tuple[str, int]] = []
    for position, name in enumerate(classes):
        ids = getattr(members[name], split)
        if key and limit is not None and len(ids) < limit:
            raise ConfigError(f"{key}: found {limit}, but class {name} has only {len(ids)} such images")
        chosen += [(image_id, position) for image_id in ids[:limit]]
    chosen.sort()
    return Choice(
        tuple(classes), tuple(image_id for image_id, _ in chosen), tuple(position for _, position in chosen)
    )


def _check_disjoint(chosen: Mapping[str, Choice]) -> None:
    home: dict[str, str] = {}
    for name, choice in chosen.items():
        for image_id in choice.image_ids:
            if image_id in home:
                raise ConfigError(
                    f"data: expected every image once, found {image_id} in {home[image_id]} and in {name}; "
                    "a list of the data set names it twice"
                )
            home[image_id] = name


def _named_or_drawn(
    key: str, wanted: int | Sequence[str], known: Sequence[str], seed: int
) -> tuple[str, ...]:
    if isinstance(wanted, int):
        if not 1 <= wanted <= len(known):
            raise ConfigError(f"{key}: found {wanted}, but between 1 and {len(known)} classes can be drawn")
        order = torch.randperm(len(known), generator=seeded_generator(seed)).tolist()
        wanted = [known[index] for index in order[:wanted]]
    wanted, names = as_stored(wanted, known), set(known)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ConfigError(
            f"{key}: unknown class {', '.join(unknown)}; {_describe_classes(unknown[0], known)}"
        )
    return tuple(name for name in known if name in set(wanted))


def _describe_classes(unknown: str, known: Sequence[str]) -> str:
    if len(known) <= _SHOWN_CLASSES:
        return f"the data set has {', '.join(known)}"
    nearest = difflib.get_close_matches(unknown, known) or known[:3]
    return f"the data set has {len(known)} classes, such as {', '.join(nearest)}"
