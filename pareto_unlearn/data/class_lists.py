"""The lists of classes that come with the published code, by their rules.

They are files of others and do not come with this package. Both rules leave the other classes of the data set to the proxy.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pareto_unlearn.errors import ConfigError

FORGET_BELOW = 100
"""In the list of the ImageNet-R classes: the smaller numbers are forgotten."""

RETAIN_LINES, FORGET_LINES = 50, 50
"""In the list of Places: the first lines are retained, the next forgotten."""


class ListedClasses(NamedTuple):
    """The classes that a list names."""

    forget: tuple[str, ...]
    retain: tuple[str, ...]


def read_class_list(path: Path, rule: str) -> ListedClasses:
    """Read a list of classes.

    Args:
        path: of the file.
        rule: a key of ``RULES``.

    Raises:
        ConfigError: the file is missing, not as the rule has it, names a class twice, or leaves one of the sets without any.
    """
    try:
        text = path.read_text(encoding="utf-8")
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
    """``img_r_folder_dict`` of the published MAGE code: JSON, whatever its name ends in."""
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
    # JSON's own lists arrive as lists, the pairs of an object as tuples.
    return isinstance(pair, tuple) and isinstance(pair[1], int) and not isinstance(pair[1], bool)


def _read_places_flist(path: Path, text: str) -> ListedClasses:
    """``class.txt`` of the published Palette code."""
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
    "imagenet_r": 'a JSON object such as {"n01443537": 0, "n02437616": 100}, each class once, of which the numbers below '
    f"{FORGET_BELOW} are forgotten and the others retained",
    "places_flist": f"one class such as /b/badlands a line, each once, the first {RETAIN_LINES} to retain and the next "
    f"{FORGET_LINES} to forget",
}


def _unlike_rule(path: Path, rule: str, found: str) -> ConfigError:
    return ConfigError(f"data.class_list: expected {_FORMATS[rule]} in {path}, found {found}")
