"""Reads the lists of classes that the published code comes with, each by a rule of its own.

The files are not part of this package. Both rules leave the other classes of the data set to the proxy.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pareto_unlearn.errors import ConfigError

FORGET_BELOW = 100
"""In the list of the ImageNet-R classes, those with a smaller number are forgotten, the others retained."""

RETAIN_LINES, FORGET_LINES = 50, 50
"""In the list of Places, the classes on the first lines are retained, those on the next lines forgotten."""


class ListedClasses(NamedTuple):
    """The classes in a list."""

    forget: tuple[str, ...]
    retain: tuple[str, ...]


def read_class_list(path: Path, rule: str) -> ListedClasses:
    """Return the classes to forget and to retain that a file lists.

    Args:
        path: the file.
        rule: a key of ``RULES``.

    Raises:
        ConfigError: the file is missing, breaks the rule, names a class twice, or leaves a set empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        trouble = error.strerror if isinstance(error, OSError) else str(error)
        raise _unlike_rule(path, rule, str(trouble)) from error
    listed = RULES[rule](path, text)
    named = [*listed.forget, *listed.retain]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise _unlike_rule(path, rule, f"{twice[0]!a} more than once")
    if not listed.forget or not listed.retain:
        found = f"{len(listed.forget)} classes to forget and {len(listed.retain)} to retain"
        raise _unlike_rule(path, rule, found)
    return listed


def _read_imagenet_r(path: Path, text: str) -> ListedClasses:
    """Read ``img_r_folder_dict`` of the published MAGE code, which is JSON whatever its suffix."""
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except ValueError as error:
        raise _unlike_rule(path, "imagenet_r", f"no JSON: {error}") from error
    if not isinstance(pairs, list) or not all(_is_numbered(pair) for pair in pairs):
        raise _unlike_rule(path, "imagenet_r", "something else")
    return ListedClasses(
        forget=tuple(name for name, number in pairs if number < FORGET_BELOW),
        retain=tuple(name for name, number in pairs if number >= FORGET_BELOW),
    )


def _is_numbered(pair: object) -> bool:
    # With object_pairs_hook=list, a JSON list arrives as a list, but a pair of a JSON object as a tuple.
    return isinstance(pair, tuple) and isinstance(pair[1], int) and not isinstance(pair[1], bool)


def _read_places_flist(path: Path, text: str) -> ListedClasses:
    """Read ``class.txt`` of the published Palette code."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) < RETAIN_LINES + FORGET_LINES:
        raise _unlike_rule(path, "places_flist", f"{len(lines)} lines")
    return ListedClasses(
        forget=tuple(lines[RETAIN_LINES : RETAIN_LINES + FORGET_LINES]), retain=tuple(lines[:RETAIN_LINES])
    )


RULES: dict[str, Callable[[Path, str], ListedClasses]] = {
    "imagenet_r": _read_imagenet_r,
    "places_flist": _read_places_flist,
}

_FORMATS = {
    "imagenet_r": 'a JSON object such as {"n01443537": 0, "n02437616": 100}, each class once, of which the '
    f"numbers below {FORGET_BELOW} are forgotten and the others retained",
    "places_flist": f"one class such as /b/badlands a line, each once, the first {RETAIN_LINES} to retain "
    f"and the next {FORGET_LINES} to forget",
}


def _unlike_rule(path: Path, rule: str, found: str) -> ConfigError:
    return ConfigError(f"data.class_list: expected {_FORMATS[rule]} in {path}, found {found}")
