"""Records read back from JSON that another release may have written.

The rule for added fields and columns stands in ``store.schemas``; here it is carried out for JSON.
"""

import dataclasses
import json
import zlib
from collections.abc import Mapping
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Record = TypeVar("Record")

SEAL = "crc32"
"""The entry with the checksum of all others: one flipped bit in a number would be a wrong result."""


def read_fields(kind: type[Record], stored: Mapping[str, Any]) -> Record:
    """Return a record built from its stored fields.

    A field that is not stored gets its default, because an older release did not know it. A stored field that
    ``kind`` does not have is ignored, because a newer release added it. Releases only add fields, so a text
    that both lacks a field and has an unknown one was not written by any release.

    Args:
        kind: a dataclass.
        stored: field names and values, as parsed from JSON.

    Raises:
        ValueError: a field is missing and another one is unknown, so a name is damaged.
        TypeError: a field without a default is missing, or a value is of another type than its field.
    """
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    missing, unknown = sorted(known - stored.keys()), sorted(stored.keys() - known)
    if missing and unknown:
        raise ValueError(
            f"{kind.__name__} lacks the fields {', '.join(missing)} "
            f"and has the unknown fields {', '.join(unknown)}"
        )
    hints = get_type_hints(kind)
    for name in known & stored.keys():
        if not _fits(stored[name], hints[name]):
            raise TypeError(f"{kind.__name__}.{name}: expected {hints[name]}, found {stored[name]!r:.80}")
    return kind(**{name: value for name, value in stored.items() if name in known})


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values with a checksum among them, which ``unsealed`` compares."""
    return {**content, SEAL: _checksum(content)}


def unsealed(content: object) -> dict[str, Any]:
    """Return the values that ``sealed`` was given; those of a release before it have no checksum to compare.

    Raises:
        TypeError: they are no JSON object.
        ValueError: the checksum is another one.
    """
    if not isinstance(content, dict):
        raise TypeError(f"expected a JSON object, found {content!r:.80}")
    kept = {name: value for name, value in content.items() if name != SEAL}
    if SEAL in content and content[SEAL] != _checksum(kept):
        raise ValueError(f"its values have another checksum than the stored {content[SEAL]!r:.80}")
    return kept


def _checksum(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _fits(value: object, hint: Any) -> bool:
    """Return whether a value from JSON may stand in a field; a type that JSON does not have is let pass."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is tuple and isinstance(value, tuple):
        kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        return len(kinds) == len(value) and all(map(_fits, value, kinds))
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    if hint in (str, bool, type(None)):
        return isinstance(value, hint)
    return origin is not tuple
